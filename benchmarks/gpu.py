"""What a GPU does with the paper's models, in minutes: step times, memory, sharing, exactness, and the paper's hours.

`python -m benchmarks.gpu [--minutes 8] [--models vit-tiny bert-mini] [--to FOLDER]` from a bare checkout, with what training
needs and no more: torch, transformers, safetensors, pyarrow and jaxtyping; no network. It prints Markdown and JSON, and with
`--to` writes both after each section, so that what was measured is there if the machine goes. What does not fit the minutes is
left out and said; what fails is said, and the rest goes on. On a CPU the same command runs small models for a few seconds, so
that it can be tested.
"""

import argparse
import contextlib
import copy
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.pairs import in_turn
from benchmarks.paper_plan import DEV_SAMPLES, TRAIN_SAMPLES, TRIALS
from benchmarks.shapes import SHAPES, TEACHERS, PlainRE, config, samples, trial
from rekd.method.evaluate import evaluate
from rekd.method.losses import Learner, re_terms, step
from rekd.method.models import RationaleModel
from rekd.method.samples import Batch, DeviceSamples
from rekd.method.streams import Streams
from rekd.method.teacher import Question, Targets, Teacher
from rekd.method.train import one_thread, train
from rekd.store.checkpoints import Checkpoints, CheckpointWriter
from rekd.store.files import Store

ARITHMETIC = ("float32", "tf32", "bfloat16")
"""tf32 is float32 whose products are rounded to 10 bits of mantissa by the tensor cores (NVIDIA). In `float32` no product is,
those of convolutions neither, where torch by itself would."""

SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
"""What a CPU runs in place of the paper's shapes."""

PROCESSES = (1, 2, 4, 8)
"""How many trials at a time share the device."""


@dataclass
class Bench:
    """One run of the benchmark: the device, the time that is left, and what was measured so far."""

    device: torch.device
    seconds: float
    """How long it may take."""
    models: tuple[str, ...]
    batch: int
    rounds: int
    started: float = field(default_factory=time.monotonic)
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    _drawn: dict[tuple[str, str], torch.nn.Module] = field(default_factory=dict)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def seconds_left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def note(self, section: str, **row: Any) -> None:
        """Keeps and prints a row of a section."""
        self.found.setdefault(section, []).append(row)
        print(f"{section}: " + ", ".join(f"{name} {_short(value)}" for name, value in row.items()), flush=True)

    def has_time(self, what: str, needed: float = 20.0) -> bool:
        """Whether there are so many seconds left; where not, the piece of work is noted as left out."""
        if self.seconds_left >= needed:
            return True
        self.left_out.append(what)
        return False

    def config(self, name: str) -> dict[str, Any]:
        """A model's configuration: the paper's on a GPU, a small one elsewhere."""
        return config(name) if self.is_gpu else {**config(name), **SMALL}

    def model(self, name: str, *, precision: str) -> RationaleModel:
        """A model on the device."""
        model = self._copy_of(
            ("model", name),
            lambda: RationaleModel.build(objective="re", num_classes=10, dropout=0.1, config=self.config(name)),
        )
        for half in (model.generator, model.predictor):
            half.backbone.precision = precision
        return model

    def by_hand(self, name: str) -> PlainRE:
        """The same by hand."""
        return self._copy_of(("by hand", name), lambda: PlainRE(SHAPES[name][0], self.config(name)))

    def _copy_of(self, key: tuple[str, str], make: Callable[[], Any]) -> Any:
        """Draws the weights once: for the largest that takes seconds of a processor."""
        if key not in self._drawn:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._drawn[key] = make()
        return copy.deepcopy(self._drawn[key]).to(self.device)

    def wait(self) -> None:
        """Waits until the device has done what it was asked."""
        if self.is_gpu:
            torch.cuda.synchronize()


@contextlib.contextmanager
def arithmetic(name: str) -> Iterator[str]:
    """The matrix products of the context in `float32`, `tf32` or `bfloat16`; yields the `precision` of a trial."""
    before = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield "bfloat16" if name == "bfloat16" else "float32"
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = before


@dataclass
class Student:
    """A model of the paper with random weights, in front of a batch of the paper's size."""

    learners: Mapping[str, Learner]
    """One model, by the kind of step: `re`, `rekd` (stored targets) and, with a teacher, `live` (all of it in the step)."""
    batch: Batch

    @classmethod
    def made(cls, bench: Bench, name: str, *, precision: str, is_live: bool = False) -> "Student":
        """A student by name; the teacher is the paper's for its family."""
        family = SHAPES[name][0]
        pool = samples(family, bench.batch)
        student = bench.model(name, precision=precision).train()
        rng = np.random.default_rng(1)
        num_features = student.num_features(pool.arrays)
        targets = Targets(
            selection_difference=rng.normal(size=(bench.batch, num_features)).astype(np.float32),
            logits=rng.normal(size=(bench.batch, 10)).astype(np.float32),
            asked=Question(teacher_digest="t", teacher_sha256="", data_fingerprint="d"),
        )
        streams = Streams(0, device=bench.device)
        alone = Learner.of(replace(trial("re"), precision=precision), student, streams=streams)
        taught = replace(
            alone,
            trial=replace(trial("rekd"), precision=precision),
            teacher=Teacher(targets, device=bench.device),
        )
        learners = {"re": alone, "rekd": taught}
        if is_live:
            teacher = bench.model(TEACHERS[family], precision=precision).requires_grad_(False)
            live = Teacher(targets, model=teacher, augmented=True, device=bench.device)
            learners["live"] = replace(taught, teacher=live)
        on_device = DeviceSamples(pool, bench.device)
        return cls(learners, on_device.take(torch.arange(bench.batch, device=bench.device)))

    @property
    def model(self) -> RationaleModel:
        return self.learners["re"].model

    def step(self, kind: str) -> None:
        """One optimisation step of that kind."""
        step(self.learners[kind], self.batch, 1.0)


def measure_steps(bench: Bench) -> None:
    """Seconds of a step by model, arithmetic and kind, the kinds in turn; and the loop by hand beside them."""
    for name in bench.models:
        for kind_of_arithmetic in ARITHMETIC:
            if not bench.has_time(f"steps of {name} in {kind_of_arithmetic}"):
                continue
            with arithmetic(kind_of_arithmetic) as precision:
                student = Student.made(bench, name, precision=precision, is_live=True)
                work = {kind: _timed(bench, student, kind) for kind in student.learners}
                work["by hand"] = _by_hand(bench, name, student.batch, precision)
                seconds = in_turn(work, rounds=bench.rounds, warm_up=2)
            medians = {f"{kind}_ms": 1000 * statistics.median(times) for kind, times in seconds.items()}
            bench.note("steps", model=name, arithmetic=kind_of_arithmetic, **medians)
            _free(bench)


def _timed(bench: Bench, student: Student, kind: str) -> Callable[[], None]:
    def run() -> None:
        torch.compiler.cudagraph_mark_step_begin()  # does nothing but where there are such graphs
        student.step(kind)
        bench.wait()

    return run


def _by_hand(bench: Bench, name: str, batch: Batch, precision: str) -> Callable[[], None]:
    plain = bench.by_hand(name).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(bench.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = plain(dict(batch.inputs), batch.labels)
        loss.backward()
        optimizer.step()
        bench.wait()

    return run


def measure_variants(bench: Bench) -> None:
    """The RE step in bfloat16 as it is, with the optimizer not fused, compiled, and compiled into CUDA graphs.

    Of the first and the last model before the others: compiling takes most of a minute.
    """
    first, *others = bench.models
    variants: dict[str, Callable[[Student], Student]] = {"as it is": lambda student: student, "not fused": _not_fused}
    if bench.is_gpu:
        variants |= {"compiled": _compiled("default"), "compiled, CUDA graphs": _compiled("reduce-overhead")}
    for name in [first, *others[::-1]] if bench.is_gpu else [first]:
        for variant, changed in variants.items():
            if bench.has_time(f"{name}, {variant}", needed=60 if variant.startswith("compiled") else 15):
                _measure_variant(bench, name, variant, changed)
                _free(bench)


def _measure_variant(bench: Bench, name: str, variant: str, changed: Callable[[Student], Student]) -> None:
    started = time.perf_counter()
    try:
        run = _timed(bench, changed(Student.made(bench, name, precision="bfloat16")), "re")
        run()
        ready = time.perf_counter() - started
        times = in_turn({variant: run}, rounds=2 * bench.rounds, warm_up=3)[variant]
    except Exception as error:  # a variant that the library refuses is a result, too
        bench.note("variants", model=name, variant=variant, error=_first_line(error))
        return
    bench.note("variants", model=name, variant=variant, re_ms=1000 * statistics.median(times), ready_after_s=ready)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _not_fused(student: Student) -> Student:
    learner = student.learners["re"]
    optimizer = torch.optim.AdamW(learner.model.parameters(), lr=learner.trial.learning_rate)
    return replace(student, learners={"re": replace(learner, optimizer=optimizer)})


def _compiled(mode: str) -> Callable[[Student], Student]:
    def compile_(student: Student) -> Student:
        for half in (student.model.generator, student.model.predictor):
            assert half is not None
            half.compile(mode=mode)
        return student

    return compile_


def measure_memory(bench: Bench) -> None:
    """Peak bytes that torch reserves for a step of each kind, in float32 and bfloat16."""
    if not bench.is_gpu:
        return
    for name in bench.models:
        for precision in ("float32", "bfloat16"):
            if not bench.has_time(f"memory of {name} in {precision}", needed=10):
                continue
            row: dict[str, float] = {}
            for kind in ("re", "rekd", "live"):
                _free(bench)
                torch.cuda.reset_peak_memory_stats()
                student = Student.made(bench, name, precision=precision, is_live=kind == "live")
                for _ in range(3):
                    student.step(kind)
                row[f"{kind}_GB"] = torch.cuda.max_memory_reserved() / 1e9
                del student
            bench.note("memory", model=name, precision=precision, **row)


def measure_sharing(bench: Bench) -> None:
    """Steps a second of the smallest and the middle model, by 1 to 8 processes that share the device, all together.

    Once as they are, which take turns, and once through NVIDIA's MPS, where it is installed, which lets them run side by side.
    """
    for name in [name for name in bench.models if name in ("vit-tiny", "vit-small", "bert-mini")][:2]:
        for count in PROCESSES if bench.is_gpu else (1,):
            _measure_processes(bench, name, count, by="turns")
        if bench.is_gpu and shutil.which(MPS):
            with mps() as environment:
                for count in PROCESSES[1:]:
                    _measure_processes(bench, name, count, by="MPS", environment=environment)


def _measure_processes(
    bench: Bench, name: str, count: int, *, by: str, environment: Mapping[str, str] | None = None
) -> None:
    seconds = 6.0 if bench.is_gpu else 0.5
    if not bench.has_time(f"{count} processes of {name} by {by}", needed=seconds + 40):
        return
    command = [sys.executable, "-m", "benchmarks.gpu", "--worker", name, "--minutes", str(seconds / 60)]
    command += ["--start-at", str(time.time() + (25 if bench.is_gpu else 0))]
    environment = {**os.environ, **(environment or {})}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(count)]
    said = [process.communicate()[0].split() for process in running]
    if any(process.returncode for process in running):
        bench.note("sharing", model=name, by=by, processes=count, error="a process has failed; it said why above")
        return
    bench.note("sharing", model=name, by=by, processes=count, steps_a_second=sum(float(words[-1]) for words in said))


MPS = "nvidia-cuda-mps-control"


@contextlib.contextmanager
def mps() -> Iterator[dict[str, str]]:
    """A service of NVIDIA's for processes that share a GPU; yields the variables by which they find it."""
    with tempfile.TemporaryDirectory(prefix="mps") as folder:
        found_by = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **found_by}
        subprocess.run([MPS, "-d"], env=environment, check=True, stdout=subprocess.DEVNULL)
        try:
            yield found_by
        finally:
            subprocess.run([MPS], input="quit\n", text=True, env=environment, check=False, stdout=subprocess.DEVNULL)


def work(bench: Bench, name: str, *, start_at: float) -> None:
    """One process of `measure_sharing`: prints the steps a second that it reached once all have begun."""
    student = Student.made(bench, name, precision="bfloat16")
    run = _timed(bench, student, "re")
    for _ in range(3):
        run()
    time.sleep(max(0.0, start_at - time.time()))
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < bench.seconds:
        run()
        count += 1
    print(count / (time.perf_counter() - started))


def measure_exactness(bench: Bench) -> None:
    """Whether a run is the same to the bit twice and after a resumption; CPU against this device; bfloat16 against float32."""
    for family in ("vit", "bert"):
        if not bench.has_time(f"bitwise runs of {family}"):
            continue
        whole, resumed, again = (_short_run(bench, family, stop=stop) for stop in (False, True, False))
        bench.note("exactness", what=f"{family}: the same run twice, bit by bit", equal=_equal(whole, again))
        bench.note("exactness", what=f"{family}: resumed after an epoch, bit by bit", equal=_equal(whole, resumed))
    for name in bench.models:
        if not bench.has_time(f"exactness of {name}", needed=15):
            continue
        with arithmetic("float32"):
            here, cpu = (_dev_loss(bench, name, device, "float32") for device in (bench.device, torch.device("cpu")))
        half = _dev_loss(bench, name, bench.device, "bfloat16")
        bench.note(
            "exactness",
            what=f"{name}: L_RE of a batch, relative difference",
            against_the_cpu=abs(here / cpu - 1),
            bfloat16_against_float32=abs(half / here - 1),
        )


def _short_run(bench: Bench, family: str, *, stop: bool) -> dict[str, torch.Tensor]:
    """Two epochs of a small student, whole or stopped after the first and resumed; its weights."""
    settings = {**config("vit-tiny" if family == "vit" else "bert-mini"), **SMALL}
    pool = samples(family, 96)
    asked = replace(trial("re"), epochs=2, learning_rate=1e-3)
    rows = np.arange(96)

    def attempt(checkpoints: Checkpoints, *, epochs: int) -> RationaleModel:
        streams = Streams(0, device=bench.device)
        with streams.initialising():
            model = RationaleModel.build(objective="re", num_classes=10, dropout=0.1, config=settings).to(bench.device)
        with CheckpointWriter(checkpoints) as writer:
            records = train(
                Learner.of(asked, model, streams=streams),
                train_samples=DeviceSamples(pool, bench.device, rows[rows % 4 != 0]),
                dev_samples=DeviceSamples(pool, bench.device, rows[rows % 4 == 0]),
                writer=writer,
            )
            for _ in itertools.islice(records, epochs):
                pass
            next(records, None)  # after the last epoch: the best version is put back
        return model

    with tempfile.TemporaryDirectory() as folder, one_thread(bench.device):
        checkpoints = Checkpoints(Store(folder), asked.digest)
        if stop:
            attempt(checkpoints, epochs=1)
        return attempt(checkpoints, epochs=asked.epochs).state_dict()


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def _dev_loss(bench: Bench, name: str, device: torch.device, precision: str) -> float:
    """L_RE of one batch under a mask that keeps every seventh feature: nothing that rounding could flip."""
    student = Student.made(bench, name, precision=precision)
    model, batch = student.model.to(device).eval(), student.batch
    inputs = {key: value.to(device) for key, value in batch.inputs.items()}
    mask = torch.zeros(len(batch.labels), model.num_features(inputs), device=device)
    mask[:, ::7] = 1
    with torch.no_grad():
        logits = model.predictor(inputs, mask)
    return re_terms(student.learners["re"].trial, logits, batch.labels.to(device), mask)["loss"].item()


def measure_evaluation(bench: Bench) -> None:
    """Samples a second of an evaluation, by model, in bfloat16."""
    for name in bench.models:
        if not bench.has_time(f"evaluation of {name}", needed=10):
            continue
        learner = Student.made(bench, name, precision="bfloat16").learners["re"]
        pool = DeviceSamples(samples(SHAPES[name][0], 1024 if bench.is_gpu else 64), bench.device)
        evaluate(learner.model, pool, learner.trial, streams=learner.streams)
        started = time.perf_counter()
        evaluate(learner.model, pool, learner.trial, streams=learner.streams)
        bench.note("evaluation", model=name, samples_a_second=len(pool) / (time.perf_counter() - started))
        _free(bench)


def estimate_paper(bench: Bench) -> None:
    """GPU-hours of the paper's plan by the measured steps of each arithmetic, and of the dev split after each epoch.

    The test split, once a trial, and what lies between steps are not in it.
    """
    evaluation = {row["model"]: row["samples_a_second"] for row in bench.found.get("evaluation", ())}
    for kind_of_arithmetic in ARITHMETIC:
        steps = {row["model"]: row for row in bench.found.get("steps", ()) if row["arithmetic"] == kind_of_arithmetic}
        if {model for _, model, _ in TRIALS} - (set(steps) & set(evaluation)):
            continue
        training = evaluating = 0.0
        for (task, model, objective), epochs in TRIALS.items():
            milliseconds = steps[model]["rekd_ms" if objective == "rekd" else "re_ms"]
            halves = 0.5 if objective == "cls" else 1.0  # a classifier is a predictor alone
            training += epochs * TRAIN_SAMPLES[task] / bench.batch * milliseconds / 1000 * halves
            evaluating += epochs * DEV_SAMPLES[task] / evaluation[model] * halves
        hours = {"training_hours": training / 3600, "evaluation_hours_in_bfloat16": evaluating / 3600}
        bench.note("paper", arithmetic=kind_of_arithmetic, **hours)


def _free(bench: Bench) -> None:
    if bench.is_gpu:
        torch.cuda.empty_cache()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(bench: Bench) -> str:
    """The tables of what was found, a section each."""
    device = torch.cuda.get_device_name() if bench.is_gpu else platform.processor() or "CPU"
    lines = [
        f"Device: {device}. torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}. Batch {bench.batch}; medians of {bench.rounds} rounds in turn.",
    ]
    if not bench.is_gpu:
        lines.append("Small models in place of the paper's: these numbers say only that the benchmark runs.")
    for section, rows in bench.found.items():
        columns = list(dict.fromkeys(name for row in rows for name in row))
        lines += ["", f"## {section}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(_short(row.get(name, '')) for name in columns)} |" for row in rows]
    if bench.left_out:
        lines += ["", f"Left out, for want of time unless another reason is told: {'; '.join(bench.left_out)}."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the sections in order of worth until the minutes are spent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--models", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--to", type=Path, default=None, help="folder of gpu.json and gpu.md")
    parser.add_argument("--worker", choices=list(SHAPES), help=argparse.SUPPRESS)
    parser.add_argument("--start-at", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch, rounds = (32, 5) if device.type == "cuda" else (2, 1)
    bench = Bench(device, 60 * options.minutes, tuple(options.models), batch=batch, rounds=rounds)
    if options.worker:
        work(bench, options.worker, start_at=options.start_at)
        return
    for section in SECTIONS:
        try:
            section(bench)
        except Exception as error:  # such as an API of another version: what the others find is worth having
            bench.left_out.append(f"{section.__name__} ({_first_line(error)})")
            traceback.print_exc()
        _keep(bench, options.to)
    print(markdown(bench))
    print(_as_json(bench))


def _as_json(bench: Bench, **how: Any) -> str:
    return json.dumps({"found": bench.found, "left_out": bench.left_out}, **how)


def _keep(bench: Bench, folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.md").write_text(markdown(bench))
        (folder / "gpu.json").write_text(_as_json(bench, indent=2))


SECTIONS = (
    measure_steps,
    measure_exactness,
    measure_evaluation,
    estimate_paper,
    measure_memory,
    measure_variants,
    measure_sharing,
)
"""They stand in the order of their worth."""


if __name__ == "__main__":
    main()
