"""Losses by what a network decides (`techniques.head`): on labels, on the original's outputs, and how far apart outputs are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from techniques.head import Task

_COUNTED_IN_FULL = 4
"""Up to so many labels their losses add up; more count as four. At high temperatures the gradient of a logit is then
``(z - v) / labels``, as a softmax's is ``(z - v) / classes`` (Hinton et al. 2015, equation 4), and one learning rate fits both."""


def label_loss(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross entropy, or binary cross entropy of each label.

    Args:
        logits: ``(n, columns)``.
        labels: ``(n,)`` class indices, or ``(n, labels)`` of 0 and 1 for the first columns.
        task: ``classes`` or ``labels``.

    Raises:
        ValueError: ``values`` have no labels.
    """
    if task == "classes":
        return functional.cross_entropy(logits, labels)
    if task == "values":
        raise ValueError("values have no labels to learn from")
    if labels.ndim == 1:
        labels = functional.one_hot(labels, logits.shape[1])
    logits = logits[:, : labels.shape[1]]
    return _per_label(functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none"))


def soft_loss(logits: Tensor, teacher: Tensor, task: Task, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(teacher_T || student_T)`` of the classes or each label (Hinton et al. 2015, section 2); of values the squared error.

    Squared errors count by the mean square of the teacher's values where that is above 1, and their mean as that of labels
    does, so that neither scale nor number of values asks for another learning rate.
    """
    if task == "values":
        return _per_label((logits - teacher).square()) / teacher.square().mean().clamp(min=1.0)
    return _divergence(logits / temperature, teacher / temperature, task) * temperature**2


def divergence(logits: Tensor, reference: Tensor, task: Task) -> float:
    """How far outputs are from the original's, per image: Kullback-Leibler divergence in nats, of labels their sum, or the
    squared error of values relative to their squares."""
    if task == "values":
        return float((logits - reference).square().sum() / reference.square().sum().clamp(min=1e-30))
    return max(float(_divergence(logits, reference, task)), 0.0)


def own_decision_loss(logits: Tensor, task: Task) -> Tensor:
    """A loss for images without labels or teacher: the network's own decisions as labels, or half the mean square of its values.

    Its gradient says what the outputs depend on; it is nothing to train with.
    """
    if task == "values":
        return 0.5 * logits.square().mean()
    decided = logits.detach().argmax(1) if task == "classes" else (logits.detach() > 0).to(logits.dtype)
    return label_loss(logits, decided, task)


def _divergence(logits: Tensor, reference: Tensor, task: Task) -> Tensor:
    if task == "classes":
        student, teacher = logits.log_softmax(1), reference.log_softmax(1)
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    yes = reference.sigmoid()
    # sum of p (log p - log q) over yes and no
    gap = yes * (functional.logsigmoid(reference) - functional.logsigmoid(logits))
    gap = gap + (1 - yes) * (functional.logsigmoid(-reference) - functional.logsigmoid(-logits))
    return _per_label(gap)


def _per_label(losses: Tensor) -> Tensor:
    """Mean over images of the losses ``(n, columns)`` of labels or values."""
    return losses.sum(1).mean() * min(1.0, _COUNTED_IN_FULL / losses.shape[1])
