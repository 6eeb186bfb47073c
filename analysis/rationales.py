"""Rationales to look at (Figure 3): what teacher and students select in the same samples of the test split.

Which samples is a rule's decision: the first that the student gets right and the first that it gets wrong, in the order
of the samples' file, which the training side wrote by a rule of its own before any result was known.
"""

import base64
import io
import itertools
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from analysis.experiment import Stages
from analysis.frames import narrow
from analysis.settings import TUNED, setting_columns, variants
from analysis.statistics import Baselines
from rekd.store.files import Store

SHOWN = 3
"""Samples that the student gets right, and as many that it gets wrong, a student."""

PICTURE_SIDE = 168
"""Pixels: 12 a patch of the paper's grid of 14, 21 one of 8, 28 one of 6."""

DIMMED = 0.3
"""How much contrast a patch that is not selected keeps, around light grey: visible, and clearly not kept."""

BACKDROP = 205
"""The grey that what is not selected fades to: neither the black nor the white of a selected patch."""

CONTOUR = (230, 97, 1)
"""Orange, around what is selected: a dark patch that is kept is no hole."""

TRUTH = (30, 136, 229)
"""Blue, around the evidence where it is known."""


@dataclass(frozen=True)
class Piece:
    """Some text of a sample: selected or not."""

    text: str
    selected: bool
    read: bool = True
    """Whether the model read it: not what lies beyond its maximum length."""


@dataclass(frozen=True)
class View:
    """What one trial makes of one sample."""

    who: str
    """Such as `teacher, RE vit-base, seed 2029`."""
    prediction: str
    right: bool
    ratio: float
    """Share of all L positions that is selected."""
    image: str = ""
    """PNG as a data URI: selected patches in full contrast within a contour, the others dimmed."""
    pieces: tuple[Piece, ...] = ()
    num_special: int = 0
    """Selected positions that stand for no text: special tokens and padding."""


@dataclass(frozen=True)
class Example:
    """One sample with the views of teacher, RE student and REKD student."""

    sample: int
    label: str
    right: bool
    """Whether the student that decides (REKD, or RE where there is none) predicts the label."""
    image: str
    """PNG as a data URI, whole; empty for text."""
    views: tuple[View, ...]


@dataclass(frozen=True)
class Student:
    """Examples of one student of one task."""

    task: str
    model: str
    setting: str
    """What tells it from other settings of the model, in words."""
    examples: tuple[Example, ...]


def students_of(store: Store, stages: Stages) -> list[Student]:
    """Examples of every student that wrote rationales, by task and setting.

    A student is a setting with final REKD trials; where a task has none, every one with final RE trials. Shown are its
    first seed of REKD, RE of the same seed and setting, and the teacher. Reads `samples` and `rationales` of
    the store. Samples or rationales that are missing or cannot be read are left out.
    """
    trials = stages.trials
    final = stages.finals[stages.finals["status"] == "ok"].sort_values("seed", kind="stable")
    final = final.assign(setting=variants(final))
    plain = Baselines(trials[trials["status"] == "ok"], "re", free=TUNED)
    students = []
    for (task, task_digest), of_task in final.groupby(["task", "task_digest"]):
        samples = _read(store, store.samples_file(str(task_digest)))
        if samples is None:
            continue
        distilled = narrow(of_task, objective="rekd")
        leading = distilled if len(distilled) else narrow(of_task, objective="re")
        for _, runs in leading.groupby(["model", *setting_columns(leading, but=["model"])], dropna=False):
            shown = _shown_trials(runs.iloc[0], trials, plain)
            names = _class_names(store, [trial["digest"] for _, trial in shown])
            masks = [(who, _read(store, store.rationales_file(trial["digest"]))) for who, trial in shown]
            read = [(who, table.set_index("sample")) for who, table in masks if table is not None]
            if read and masks[0][1] is not None:
                # The student decides which samples are shown, and stands last.
                model, setting = str(runs["model"].iloc[0]), str(runs["setting"].iloc[0])
                examples = _examples(samples, read[1:] + read[:1], names)
                students.append(Student(str(task), model, setting, examples))
    return [student for student in students if student.examples]


def _shown_trials(student: pd.Series, trials: pd.DataFrame, plain: Baselines) -> list[tuple[str, pd.Series]]:
    """The student first, then the teacher, then plain RE of the student's seed and setting."""
    model, seed = student["model"], student["seed"]
    shown = [(f"{student['objective'].upper()} {model}, seed {seed}", student)]
    if student["objective"] == "rekd":
        for _, teacher in narrow(trials, digests=[student["teacher_digest"]]).iterrows():
            shown.append((f"teacher: RE {teacher['model']}, seed {teacher['seed']}", teacher))
        same, _ = plain.of(student)
        shown += [(f"RE {model}, seed {seed}", run) for _, run in narrow(same, seed=seed).iterrows()]
    return shown


def _examples(
    samples: pd.DataFrame, tables: list[tuple[str, pd.DataFrame]], names: dict[int, str]
) -> tuple[Example, ...]:
    _, student = tables[-1]
    samples = samples[samples["sample"].isin(student.index)]
    hits = samples["label"].to_numpy() == student["prediction"].reindex(samples["sample"]).to_numpy()
    chosen = [*samples[hits].index[:SHOWN], *samples[~hits].index[:SHOWN]]
    examples = []
    for index in chosen:
        sample = samples.loc[index]
        number, label = int(sample["sample"]), int(sample["label"])
        views = tuple(
            _view(who, sample, table.loc[[number]].iloc[0], names) for who, table in tables if number in table.index
        )
        shown = _data_uri(_whole(sample)) if isinstance(sample["image"], bytes) else ""
        examples.append(Example(number, names.get(label, str(label)), views[-1].right, shown, views))
    return tuple(examples)


def _view(who: str, sample: pd.Series, rationale: pd.Series, names: dict[int, str]) -> View:
    mask = np.asarray(rationale["mask"], dtype=bool)
    prediction = int(rationale["prediction"])
    image, pieces, num_special = "", (), 0
    if isinstance(sample["image"], bytes):
        image = _data_uri(_selected(sample["image"], mask, int(sample["rows"]), int(sample["columns"])))
    else:
        spans = [(int(start), int(end)) for start, end in sample["spans"]]
        pieces = text_pieces(sample["text"], spans, mask, read=_read_part(sample))
        num_special = sum(bool(kept) and start == end for kept, (start, end) in zip(mask, spans, strict=True))
    return View(
        who=who,
        prediction=names.get(prediction, str(prediction)),
        right=prediction == int(sample["label"]),
        ratio=float(mask.mean()) if mask.size else 0.0,
        image=image,
        pieces=pieces,
        num_special=num_special,
    )


def _read_part(sample: pd.Series) -> tuple[int, int] | None:
    """What of a text was read, where the file says it: 0.1.0 did not."""
    part = sample.get("read")
    return None if part is None else (int(part[0]), int(part[1]))


def text_pieces(
    text: str, spans: list[tuple[int, int]], mask: np.ndarray, *, read: tuple[int, int] | None = None
) -> tuple[Piece, ...]:
    """The text cut where selection or reading begins and ends; white space between two selected tokens is taken as selected."""
    selected = np.zeros(len(text), dtype=bool)
    for kept, (start, end) in zip(mask, spans, strict=True):
        if kept:
            selected[start:end] = True
    for index in range(1, len(text) - 1):
        if text[index].isspace() and selected[index - 1] and not selected[index]:
            following = index
            while following < len(text) and text[following].isspace():
                following += 1
            selected[index:following] = following < len(text) and selected[following]
    first, last = read or (0, len(text))
    pieces = []
    for (kept, is_read), positions in itertools.groupby(
        range(len(text)), key=lambda index: (bool(selected[index]), first <= index < last)
    ):
        place = list(positions)
        pieces.append(Piece(text[place[0] : place[-1] + 1], kept, is_read))
    return tuple(pieces)


def _picture(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return image.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.NEAREST)


def _whole(sample: pd.Series) -> Image.Image:
    """The image, with a contour around the evidence where the samples say it."""
    picture, truth = _picture(sample["image"]), sample.get("truth")
    if truth is None:
        return picture
    marked = _by_pixel(np.asarray(truth, dtype=bool), int(sample["rows"]), int(sample["columns"]))
    return _outlined(np.asarray(picture), marked, TRUTH)


def _selected(content: bytes, mask: np.ndarray, rows: int, columns: int) -> Image.Image:
    """Selected patches in full contrast within a contour; the others faded."""
    image, kept = np.asarray(_picture(content), dtype=float), _by_pixel(mask, rows, columns)
    faint = DIMMED * image + (1 - DIMMED) * BACKDROP
    shown = np.where(kept[..., None], image, faint).round().astype(np.uint8)
    return _outlined(shown, kept, CONTOUR)


def _by_pixel(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    edges = np.arange(PICTURE_SIDE)
    return mask.reshape(rows, columns)[edges * rows // PICTURE_SIDE][:, edges * columns // PICTURE_SIDE]


def _outlined(image: np.ndarray, kept: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """A contour two pixels wide, just inside of what is kept."""
    inside = np.pad(kept, 2)
    core = inside[:-4, 2:-2] & inside[4:, 2:-2] & inside[2:-2, :-4] & inside[2:-2, 4:]
    return Image.fromarray(
        np.where((kept & ~core)[..., None], np.array(colour, dtype=np.uint8), image).astype(np.uint8)
    )


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _read(store: Store, path: str) -> pd.DataFrame | None:
    if not store.exists(path):
        return None
    try:
        return pq.read_table(pa.BufferReader(store.read(path))).to_pandas()
    except pa.ArrowException:  # a damaged picture book is no reason to be without a report
        return None


def _class_names(store: Store, digests: list[str]) -> dict[int, str]:
    """Names of the classes, from the first of the models that gives them."""
    for digest in digests:
        path = f"{store.model_folder(digest)}/config.json"
        if not store.exists(path):
            continue
        try:
            names = json.loads(store.read(path)).get("details", {}).get("class_names")
        except ValueError:
            continue
        if names:
            return {index: str(name) for index, name in enumerate(names)}
    return {}
