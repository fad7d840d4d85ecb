from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.client import Client
from paretopress.credentials import Credentials, CredentialsError, is_local

TOKEN = "pp_000000000000_" + "s" * 43


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:50051", True),
        ("127.1.2.3:50051", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("dns:///localhost:50051", True),
        ("unix:/run/paretopress.sock", True),
        ("10.0.0.7:50051", False),
        ("paretopress.example:443", False),
        ("localhost.example:443", False),
        ("[2001:db8::1]:50051", False),
        ("ipv4:127.0.0.1:1,10.0.0.7:1", False),
    ],
)
def test_which_addresses_are_this_machine(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_a_token_does_not_travel_in_the_clear() -> None:
    with pytest.raises(CredentialsError, match="unencrypted") as error:
        Client("paretopress.example:50051", token=TOKEN)
    assert TOKEN not in str(error.value)
    Client("paretopress.example:50051", token=TOKEN, insecure=True).close()
    Client("paretopress.example:50051", token=TOKEN, ca_certificate="system").close()
    Client("127.0.0.1:50051", token=TOKEN).close()
    Client("paretopress.example:50051").close()


def test_a_token_is_not_shown() -> None:
    assert TOKEN not in repr(Credentials(TOKEN))


@pytest.mark.parametrize("token", ["pp_x\n", "pp x", "pp_ä"])
def test_a_token_that_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(CredentialsError, match="characters"):
        Client(token=token)


def test_files_must_be_there_and_go_together(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="No such file"):
        Client(ca_certificate=tmp_path / "none.pem")
    with pytest.raises(CredentialsError, match="go together"):
        Client(ca_certificate="system", client_certificate="a.pem")
    with pytest.raises(CredentialsError, match="needs TLS"):
        Client(client_certificate="a.pem", client_key="a.key")
