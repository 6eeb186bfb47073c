"""What a sweep prints where the output, the store or the plan is not the usual one. Nothing is trained."""

import io
import json
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from rekd.cluster.prices import dollars, handed_over, kinds_of, read_prices
from rekd.running.estimate import Seconds
from rekd.running.limits import Limits
from rekd.running.plan import LaterTrials, Plan, SweepResult
from rekd.store.files import Store
from rekd.store.ledger import Ledger, Outcome
from rekd.tasks.task import load_task
from sweeps.lambda_sweep import lambda_sweep
from sweeps.options import Options, parse_hours, parse_moment, run_command
from sweeps.planned import _grid, print_cost
from sweeps.start import Sweep, _as_ctrl_c, _report

DIGITS = load_task("digits")
LAMBDAS = (0.001, 0.1)
SEEDS = (1, 2, 3)
TYPED = ("--task", "digits", "--models", "vit-student", "--seeds", "1-3", "--lambdas", "0.001,0.1", "--local")


@pytest.fixture
def finished(store) -> Store:
    """A store with all trials of `TYPED`."""
    for lambda_select in LAMBDAS:
        for seed in SEEDS:
            outcome = Outcome(
                status="ok",
                dev_loss=0.5551 + seed / 100,
                dev_rationale_ratio=0.251,
                test_rationale_ratio=0.252,
                test_accuracy=0.7531,
                num_epochs=35,
                train_seconds=1.0,
            )
            Ledger(store).write(DIGITS.trial("re", "vit-student", seed=seed, lambda_select=lambda_select), outcome)
    return store


@pytest.fixture
def typed(monkeypatch):
    """Types a sweep's command in this process; its exit status and what it printed."""

    def run(*arguments: str, encoding: str = "utf-8") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        with pytest.raises(SystemExit) as end:
            run_command(lambda_sweep)
        said = ""
        for stream in streams.values():
            stream.flush()
            said += stream.buffer.getvalue().decode(encoding)
        return int(end.value.code or 0), said

    return run


def test_output_that_lacks_a_sign_does_not_end_a_finished_sweep(finished, typed):
    status, said = typed(*TYPED, "--store", finished.root, encoding="latin-1")
    assert status == 0, said
    assert "Choice for vit-student" in said


def test_numbers_are_whole_where_there_is_no_terminal_however_narrow(finished, typed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    status, said = typed(*TYPED, "--store", finished.root)
    assert status == 0, said
    assert "0.575 ± 0.010" in said
    assert "0.753 ± 0.000" in said


def test_a_finished_sweep_shows_its_results_where_no_picture_can_be_written(finished, typed):
    Path(finished.pictures_folder).touch()  # where the folder would be
    status, said = typed(*TYPED, "--store", finished.root)
    assert status == 0, said
    assert "0.753" in said
    assert "Picture not written: " in said


def test_a_store_that_cannot_be_read_is_one_line_and_status_2(tmp_path, typed):
    (tmp_path / "trials").touch()  # not a folder
    status, said = typed(*TYPED, "--store", str(tmp_path), "--dry-run")
    assert status == 2
    assert "Traceback" not in said


def test_a_store_that_fails_while_it_is_read_is_one_line(finished, typed, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied", "/somewhere/trials")

    monkeypatch.setattr(Ledger, "trials", refused)
    status, said = typed(*TYPED, "--store", finished.root)
    assert status == 2
    assert len(said.strip().splitlines()) == 1
    assert "Permission denied" in said


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_ends_a_sweep_that_a_script_has_put_into_the_background_too(before):
    """There Ctrl-C is ignored."""
    handler = signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(KeyboardInterrupt):
            _as_ctrl_c(signal.SIGTERM, None)
    finally:
        signal.signal(signal.SIGINT, handler)


# --- The plan -------------------------------------------------------------------------------------------------------


def test_the_plan_names_whatever_varies():
    def trials(**fields):
        return [DIGITS.trial("re", "vit-student", seed=seed, **fields) for seed in SEEDS]

    assert _grid([*trials(learning_rate=1e-3), *trials(learning_rate=1e-4)]) == "2 learning rates x 3 seeds"
    assert _grid([*trials(lambda_select=0.1), *trials(lambda_select=0.2)]) == "2 lambdas x 3 seeds"
    both = [*trials(learning_rate=1e-3, dropout=0.0), *trials(learning_rate=1e-4, dropout=0.1)]
    assert _grid(both) == "2 learning rates, 2 dropouts, 3 seeds"
    assert _grid(trials()[:1]) == ""


CONFIG = {
    "max_workers": 120,
    "head_node_type": "head",
    "provider": {"type": "external", "region": "us-west-2"},
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {"InstanceType": "m7i.xlarge"}},
        "one_gpu": {
            "max_workers": 120,
            "resources": {"GPU": 1},
            "node_config": {"InstanceType": "g6e.xlarge", "InstanceMarketOptions": {"MarketType": "spot"}},
        },
        "eight_gpus": {"max_workers": 15, "resources": {"GPU": 8}, "node_config": {"InstanceType": "g6e.48xlarge"}},
    },
}


def told(config: dict, gpus_per_trial: float = 1.0) -> str:
    console = Console(file=io.StringIO(), width=500)
    hours = 3600.0
    print_cost(
        console, "cluster.yaml", config, Seconds(1200 * hours, 600 * hours, 2400 * hours), "ledger", gpus_per_trial
    )
    return console.file.getvalue()


def test_the_cost_is_that_of_the_files_machines_by_a_table_with_its_date():
    said = told(CONFIG)
    assert "1,200 GPU-hours (600 to 2,400), 10 h with all 120 GPUs (g6e.xlarge)" in said
    prices = read_prices()
    dear = 1200 * prices.on_demand["g6e.xlarge"] + 10 * prices.on_demand["m7i.xlarge"]
    cheap = 1200 * prices.spot["g6e.xlarge"] + 10 * prices.on_demand["m7i.xlarge"]
    assert f"Cost: {dollars(dear, dear)} (" in said
    assert f"about {dollars(cheap, cheap)} (" in said
    assert prices.date in said


def test_half_a_gpu_a_trial_costs_half_and_eight_need_another_machine():
    assert "600 GPU-hours (300 to 1,200)" in told(CONFIG, 0.5)
    assert "(g6e.48xlarge)" in told(CONFIG, 8)
    assert "has no machine with 9 GPUs" in told(CONFIG, 9)


def test_a_machine_without_a_price_is_said_and_so_are_prices_of_elsewhere():
    other = json.loads(json.dumps(CONFIG).replace("g6e.xlarge", "x99.huge"))
    assert f"not known, the table of prices ({read_prices().date}) does not have x99.huge" in told(other)
    assert "it rents nothing" in told(json.loads(json.dumps(CONFIG).replace("InstanceType", "Nothing")))
    assert "which differ in eu-central-1" in told({**CONFIG, "provider": {"region": "eu-central-1"}})


def test_prices_travel_with_a_sweep_unless_one_is_missing():
    handed = json.loads(handed_over(CONFIG))
    assert handed == {kind.name: read_prices().on_demand[kind.machine] for kind in kinds_of(CONFIG)}
    assert handed_over(json.loads(json.dumps(CONFIG).replace("m7i.xlarge", "x99.huge"))) == ""
    assert Limits(max_cost=1, prices=handed).max_cost == 1


def test_a_sweep_that_was_held_says_what_is_left(finished):
    trials = [DIGITS.trial("re", "vit-student", seed=seed, lambda_select=0.1) for seed in range(1, 6)]
    like = DIGITS.trial("cls", "vit-student", seed=0)
    plan = Plan(trials=trials, postponed=[LaterTrials(what="w", num_trials=4, needs="n", like=like)])
    result = SweepResult.of(plan, Ledger(finished).trials().to_pandas(), held="--max-hours 2 is reached.")
    console = Console(file=io.StringIO(), width=300)
    how = {"tasks": [DIGITS], "store": finished, "console": console, "show": lambda *arguments: None}
    sweep = Sweep(plan=lambda results: plan, options=Options(local=True), **how)
    assert _report(sweep, result) == 1
    assert "Stopped: --max-hours 2 is reached." in console.file.getvalue()
    assert "3 trials have ended, 6 are left, about" in console.file.getvalue()


def test_nothing_is_refused_on_a_guess(typed, store, monkeypatch):
    """Arithmetic says days; a few steps say minutes, so the sweep starts."""
    started = []
    monkeypatch.setattr("sweeps.start.TOO_LONG", 60.0)
    monkeypatch.setattr("rekd.running.estimate.FLOPS", {"cpu": 1.0, "cuda": 1.0})
    monkeypatch.setattr(
        "sweeps.start._run",
        lambda sweep, outlook: (
            started.append(outlook) or SweepResult.of(outlook.plan, Ledger(store).trials().to_pandas())
        ),
    )
    short = (*TYPED, "--epochs", "1", "--store", store.root)
    typed(*short)
    assert started
    monkeypatch.setattr("sweeps.start.TOO_LONG", 0.0)  # measured, and still too long
    status, said = typed(*short)
    assert status == 2
    assert "from a few steps of each model, timed just now" in " ".join(said.split())
    assert len(started) == 1


# --- Budgets ----------------------------------------------------------------------------------------------------------


def test_a_time_of_day_is_the_next_one_of_this_clock():
    now = datetime.now().astimezone()
    moment = parse_moment((now - timedelta(minutes=2)).strftime("%H:%M"))
    assert timedelta(hours=23, minutes=56) < moment - now < timedelta(hours=24)
    assert parse_moment(moment.isoformat()) == moment
    assert parse_hours("90min") == parse_hours("1.5h") == 1.5


def test_the_plan_says_what_fits_into_a_budget_and_what_is_left(typed, store):
    for seed in SEEDS:
        trial = DIGITS.trial("re", "vit-student", seed=seed, lambda_select=0.5)
        Ledger(store).write(trial, Outcome(status="ok", num_epochs=trial.epochs, train_seconds=3610.0, device="cpu"))
    status, said = typed(*TYPED, "--store", store.root, "--dry-run", "--budget", "2.5h", "--max-concurrent", "1")
    assert status == 0, said
    assert "--budget 2.5h: about 2 of 6 trials fit; 4 are left, 4 h 00 min of work." in said
