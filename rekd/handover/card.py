"""The model card of an exported model: what it is, what it scores, what its rationale promises; filled from the ledger."""

import importlib.resources
import platform
from collections.abc import Sequence
from typing import Any

import jinja2

from rekd.handover.forms import Comparison
from rekd.handover.trained_model import TrainedModel
from rekd.messages import number

COLUMNS = {
    "dev_loss": "dev loss",
    "dev_accuracy": "dev accuracy",
    "dev_rationale_ratio": "dev rationale ratio",
    "test_accuracy": "test accuracy",
    "test_rationale_ratio": "test rationale ratio",
    "test_token_ratio": "test ratio of real features",
    "test_eraser_sufficiency": "sufficiency by ERASER (test; 0 or less suffices)",
    "test_eraser_comprehensiveness": "comprehensiveness by ERASER (test)",
    "test_distinct_masks": "different masks a sample (test)",
    "test_rationale_f1": "F1 with the known evidence (test)",
    "test_rationale_iou": "IoU with the known evidence (test)",
    "test_rationale_auprc": "AUPRC with the known evidence (test)",
    "dev_teacher_overlap": "overlap with the teacher (dev)",
}
"""The numbers of a card, where the ledger has them."""

OBJECTIVES = {
    "cls": "A plain classifier: it reads the whole input and selects nothing.",
    "re": "Rationale extraction: a generator selects {features}, and a predictor classifies from those alone.",
    "rekd": "Rationale extraction with knowledge distillation: a generator selects {features}, a predictor classifies from "
    "those alone, and both learnt from a larger model that does the same.",
}

DATA = {
    "digits": "scikit-learn's handwritten digits, a part of the UCI *Optical Recognition of Handwritten Digits* (CC BY 4.0).",
    "hidden-digits": "Canvases made by rekd (Apache-2.0) from scikit-learn's handwritten digits, a part of the UCI *Optical "
    "Recognition of Handwritten Digits* (CC BY 4.0).",
    "planted-reviews": "Texts made by rekd (Apache-2.0).",
    "cifar10": "CIFAR-10 (Krizhevsky, 2009). Its authors state no licence.",
    "cifar100": "CIFAR-100 (Krizhevsky, 2009), coarse classes. Its authors state no licence.",
    "imdb": "Large Movie Review Dataset (Maas et al., 2011). Its authors state no licence.",
}
"""What is known of the embedded tasks' data."""

UNKNOWN = (
    "`{task}` is a task of whoever trained this; what its data is and under which licence is not known to the program."
)

LEFT_OUT = ("task_digest", "model_digest", "seed", "task", "model", "teacher_digest")
"""Fields of a trial that stand elsewhere on the card, or that say nothing to a reader."""


def card(trained: TrainedModel, forms: Sequence[Comparison] = (), onnx: dict[str, Any] | None = None) -> str:
    """The README.md of a model in the manner of Hugging Face."""
    config = trained.config
    details = config["details"]
    trial = details.get("trial", {})
    kind = "text" if "input_ids" in details["inputs"] else "image"
    feature = "token" if kind == "text" else "patch"
    row = trained.row or {}
    names = details.get("class_names") or [str(label) for label in range(config["num_classes"])]
    return _template().render(
        kind=kind,
        title=plain_cell(f"{trial.get('model', 'A model')} on {trial.get('task', 'a task')}"),
        what=OBJECTIVES[config["objective"]].format(features=f"{feature}es" if kind == "image" else f"{feature}s"),
        shape=details["inputs"]["input_ids" if kind == "text" else "image"],
        feature=feature,
        classes=plain_cell(", ".join(map(str, names[:12])) + (" …" if len(names) > 12 else "")),
        num_classes=config["num_classes"],
        rows=_numbers(trained),
        seed=trial.get("seed"),
        num_seeds=len(trained.seeds),
        teacher=trained.teacher,
        warning=plain_cell(row.get("warning") or ""),
        forms=forms,
        dropped=_dropped(forms),
        onnx=onnx,
        cpu=platform.processor() or platform.machine(),
        sampled=trial.get("evaluation_mask") == "sampled_everywhere",
        audit=_audit(trained),
        fields=[
            (name, plain_cell(number(value)))
            for name, value in trial.items()
            if value is not None and name not in LEFT_OUT
        ],
        data=DATA.get(trial.get("task", ""), UNKNOWN.format(task=plain_cell(str(trial.get("task", "")))))
        if _is_embedded(trained)
        else UNKNOWN.format(task=plain_cell(str(trial.get("task", "not named")))),
        made_with=_made_with(trained),
    )


def plain_cell(text: str) -> str:
    """A text that stays in its place in Markdown: no line, column, tag or link of its own."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in r"\`*[]<>|" else letter for letter in flat)


def _template() -> jinja2.Template:
    folder = importlib.resources.files("rekd.handover") / "templates"
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return environment.from_string((folder / "card.md").read_text(encoding="utf-8"))


def _numbers(trained: TrainedModel) -> list[dict[str, str]]:
    found = []
    for name, said in COLUMNS.items():
        spread = trained.spread(name)
        own = (trained.row or {}).get(name)
        if spread is not None and own is not None:
            mean, deviation = spread
            with_deviation = f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"
            found.append({"name": said, "own": f"{own:.3f}", "mean": with_deviation})
    return found


def _dropped(forms: Sequence[Comparison]) -> dict[str, float] | None:
    by_name = {form.form: form for form in forms}
    whole, dropped = by_name.get("PyTorch"), by_name.get("PyTorch, without the rest")
    if whole is None or dropped is None:
        return None
    time = 100 * (dropped.milliseconds / whole.milliseconds - 1)
    return {"change": dropped.accuracy - whole.accuracy, "time": time}


def _audit(trained: TrainedModel) -> list[str]:
    if trained.config["objective"] == "cls":
        return []
    found = trained.audit
    if found is None:
        return ["It was not audited (`rekd audit`): whether the rationales leak the label is not known."]
    return [
        f"Audit: {found.verdict}. A judge that was trained on random parts of inputs is right about "
        f"{found.judge_rationale:.1%} of the rationales, {found.judge_whole:.1%} of whole inputs, {found.judge_rest:.1%} of "
        f"what rationales leave out, and {found.judge_fixed:.1%} with the best one mask for all."
    ]


def _is_embedded(trained: TrainedModel) -> bool:
    """Whether the trial's task is the embedded one of that name, and not another's file."""
    from rekd.tasks.task import load_task
    from rekd.tasks.task_file import task_names

    trial = trained.config["details"].get("trial", {})
    return trial.get("task") in task_names() and load_task(trial["task"]).digest == trial.get("task_digest")


def _made_with(trained: TrainedModel) -> str:
    row = trained.row or {}
    digest = trained.config["details"].get("digest")
    parts = [
        f"Trial `{digest}`" if digest else "",
        row.get("versions", ""),
        f"on {row['device']}" if row.get("device") else "",
        f"{row['train_seconds']:.0f} s of training" if row.get("train_seconds") is not None else "",
        f"ended {row['finished_at']}" if row.get("finished_at") else "",
        f"commits {row['commits']}" if row.get("commits") else "",
    ]
    return plain_cell("; ".join(part for part in parts if part)).replace("\\`", "`") + "."
