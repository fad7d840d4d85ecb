from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_settings_travel_to_another_process_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ignored:1")
    settings = Settings(data_dir=tmp_path, dataset_roots=(tmp_path,), port=0, cpus=3, ray_address="ray:2", mlflow_ui=True)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_the_readme_names_every_setting() -> None:
    missing = [name for name in Settings.model_fields if f"PARETOPRESS_{name.upper()}`" not in README]
    assert missing == []
