"""A trial is named by its content, and refuses what is not one."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekd.schedule import SCHEDULED
from rekd.trial import (
    FIDELITY,
    PRESETS,
    RE_FIELDS,
    REKD_FIELDS,
    Trial,
    canonical_json,
    digest_of,
    neutral_values,
    taught_by,
)

BASE = {"task": "toy", "task_digest": "a", "model": "vit", "model_digest": "b", "seed": 2026, "epochs": 3}
RE = {
    "p_target": 0.15,
    "lambda_select": 0.1,
    "temperature_initial": 5.0,
    "temperature_final": 0.1,
    "temperature_every": 100,
}
REKD = {**RE, "alpha": 0.3, "lambda_rationale": 0.5, "teacher_digest": "c"}
CLS_TRIAL = Trial(objective="cls", **BASE)
RE_TRIAL = Trial(objective="re", **BASE, **RE)
REKD_TRIAL = Trial(objective="rekd", **BASE, **REKD)

# A few values a field, so that two draws are often the same trial; numbers are spelled as int and as float.
drawn = st.fixed_dictionaries(
    {
        "seed": st.sampled_from([0, 1]),
        "learning_rate": st.sampled_from([1, 1.0, 1e-5]),
        "weight_decay": st.sampled_from([0, 0.0, -0.0, 1e-3]),
        "alpha": st.sampled_from([0, 0.0, 1, 1.0, 0.3]),
        "task": st.sampled_from(["toy", "tóy"]),
    }
)


# --- Digests --------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(drawn, drawn)
def test_digests_are_equal_exactly_where_fields_are(left, right):
    first, second = replace(REKD_TRIAL, **left), replace(REKD_TRIAL, **right)
    assert (first.digest == second.digest) == (first == second) == (left == right)


@pytest.mark.parametrize("name", [field.name for field in fields(Trial)])
def test_every_field_is_part_of_the_digest(name):
    others = {"objective": None, "precision": "bfloat16", "downscaling": "antialiased", **FIDELITY["authors"]}
    others |= {f"{name}_schedule": "cosine from 0.9" for name in SCHEDULED}
    others |= {"distils": "rationale", "further_teachers": "d:2", "estimator": "top_k", "encoder": "shared"}
    if name in others:
        other = others[name]
    elif isinstance(value := getattr(REKD_TRIAL, name), str):
        other = value + "x"
    else:
        other = (value + 1) / 2 if isinstance(value, float) else value + 1
    variant = CLS_TRIAL if name == "objective" else replace(REKD_TRIAL, **{name: other})
    assert variant.digest != REKD_TRIAL.digest
    assert replace(variant, **asdict(REKD_TRIAL)).digest == REKD_TRIAL.digest


def test_a_default_that_is_written_out_is_the_same_trial():
    assert replace(RE_TRIAL, batch_size=32, evaluation_mask="argmax").digest == RE_TRIAL.digest
    assert replace(RE_TRIAL, batch_size=64).digest != RE_TRIAL.digest


def test_a_digest_is_the_same_in_another_process():
    program = f"from rekd.trial import Trial; print(Trial(**{asdict(REKD_TRIAL)!r}).digest)"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == REKD_TRIAL.digest


def test_a_digest_is_the_sha256_of_the_sorted_json():
    text = '{"a":0.1,"b":["x",null,true]}'
    assert canonical_json({"b": ("x", None, True), "a": 0.1}) == text
    assert digest_of({"b": ["x", None, True], "a": 0.1}) == hashlib.sha256(text.encode()).hexdigest()[:16]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=5), st.randoms())
def test_canonical_json_does_not_depend_on_the_order_of_keys(value, random):
    keys = list(value)
    random.shuffle(keys)
    text = canonical_json(value)
    assert canonical_json({key: value[key] for key in keys}) == text
    assert json.loads(text) == value  # and nothing is lost in it


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {1, 2}}, "value.a is a set, which cannot be written the same way twice"),
        ({"a": [np.float64(0.1)]}, r"value.a\[0\] is a float64"),
        (np.arange(3), "value is a ndarray"),
        ({"a": float("nan")}, "value.a is nan, which JSON cannot hold"),
        ({"a": float("inf")}, "Give a finite number"),
        ({1: "a"}, "value has the key 1, which is not text. Write '1'."),
    ],
)
def test_what_has_no_single_spelling_has_no_digest(value, message):
    with pytest.raises(ValueError, match=message):
        digest_of(value)


# --- Values ---------------------------------------------------------------------------------------------------------


def test_a_trial_survives_a_dictionary_and_json():
    for trial in (CLS_TRIAL, RE_TRIAL, REKD_TRIAL):
        assert Trial(**asdict(trial)) == trial
        assert Trial(**json.loads(canonical_json(asdict(trial)))) == trial


def test_numbers_become_what_the_field_declares():
    trial = replace(REKD_TRIAL, alpha=1, learning_rate=np.float64(0.5))
    assert (type(trial.alpha), type(trial.learning_rate)) == (float, float)
    assert str(replace(REKD_TRIAL, weight_decay=-0.0).weight_decay) == "0.0"


def test_a_trial_is_frozen_and_a_variant_is_another():
    with pytest.raises(FrozenInstanceError):
        RE_TRIAL.seed = 1  # type: ignore[misc]
    assert replace(RE_TRIAL, seed=1).seed == 1
    assert RE_TRIAL.seed == 2026


def test_p_target_given_in_percent_is_refused_with_the_fraction_to_write():
    with pytest.raises(
        ValueError, match=r"^p_target is a fraction of features in \(0, 1\), got 15\. For 15 % write 0\.15\.$"
    ):
        replace(RE_TRIAL, p_target=15)
    with pytest.raises(ValueError, match=r"got 9\.5\. For 9\.5 % write 0\.095\.$"):
        replace(RE_TRIAL, p_target=9.5)
    with pytest.raises(ValueError, match=r"got -0\.1\.$"):
        replace(RE_TRIAL, p_target=-0.1)
    assert replace(RE_TRIAL, p_target=0.095).p_target == 0.095


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("objective", "kd", "objective is one of cls, re, rekd, got 'kd'"),
        ("task", "", "task is a name that is not empty"),
        ("seed", -1, "seed is 0 or more, got -1"),
        ("seed", 1.5, "seed is of type int, got 1.5 of type float"),
        ("seed", True, "seed is of type int, got True of type bool"),
        ("seed", "2026", "seed is of type int, got '2026' of type str"),
        ("seed", 2**63, f"seed is a whole number that 64 bits hold, below {2**63}, got {2**63}"),
        ("epochs", 2**64, f"epochs is a whole number that 64 bits hold, below {2**63}, got {2**64}"),
        ("task", "a\udcff", "task is text that UTF-8 can hold, got "),
        ("epochs", 0, "epochs is 1 or more, got 0"),
        ("batch_size", 0, "batch_size is 1 or more"),
        ("learning_rate", 0, "learning_rate is above 0, got 0"),
        ("learning_rate", float("nan"), "learning_rate is a finite number, got nan"),
        ("learning_rate", float("inf"), "learning_rate is a finite number, got inf"),
        ("weight_decay", -1e-3, "weight_decay is 0 or more, got -0.001"),
        ("dropout", 1, r"dropout is a fraction in \[0, 1\), got 1"),
        ("p_target", 0, r"p_target is a fraction of features in \(0, 1\), got 0\."),
        ("lambda_select", -1, "lambda_select is 0 or more"),
        ("temperature_final", 0, "temperature_final is above 0"),
        ("temperature_initial", 0.05, "temperature_initial is at least temperature_final, 0.1, got 0.05"),
        ("temperature_every", 0, "temperature_every is 1 or more"),
        ("alpha", 1.1, r"alpha is a share in \[0, 1\], got 1.1"),
        ("lambda_rationale", -0.5, "lambda_rationale is 0 or more"),
        ("heads", "mlp", "heads is one of linear, authors, got 'mlp'"),
        ("split", None, "split is of type str, got None"),
    ],
)
def test_what_is_out_of_range_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(REKD_TRIAL, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dropout", 0),
        ("alpha", 0),
        ("alpha", 1),
        ("lambda_select", 0),
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("temperature_initial", 0.1),
    ],
)
def test_the_ends_of_a_closed_range_are_in_it(field, value):
    assert getattr(replace(REKD_TRIAL, **{field: value}), field) == value


@pytest.mark.parametrize("name", RE_FIELDS + REKD_FIELDS)
def test_a_field_is_needed_by_the_objectives_that_use_it_and_refused_by_the_others(name):
    neutral = neutral_values(Trial).get(name)
    other = neutral + 1 if isinstance(neutral, float) else "cosine from 0.9"
    value = {**REKD, "distils": "rationale", "further_teachers": "d:2.0"}.get(name, other)
    with pytest.raises(ValueError, match=f"{name} is not used by objective 'cls', got {value!r}. Leave it None."):
        replace(CLS_TRIAL, **{name: value})
    if name in REKD:
        with pytest.raises(ValueError, match=f"{name} is needed by objective 'rekd', got None"):
            replace(REKD_TRIAL, **{name: None})
    else:
        assert replace(REKD_TRIAL, **{name: None}) == REKD_TRIAL
    if name in REKD_FIELDS:
        with pytest.raises(ValueError, match=f"{name} is not used by objective 're'"):
            replace(RE_TRIAL, **{name: value})


# --- Teachers and schedules -----------------------------------------------------------------------------------------


def test_the_neutral_values_of_what_is_read_are_written_out_and_change_no_digest():
    assert (REKD_TRIAL.distils, REKD_TRIAL.alpha_schedule, RE_TRIAL.alpha_schedule) == ("both", "constant", None)
    named = replace(REKD_TRIAL, distils="both", alpha_schedule="constant", lambda_select_schedule=None)
    assert named == REKD_TRIAL
    re = replace(REKD_TRIAL, objective="re", alpha=None, lambda_rationale=None, teacher_digest=None)
    assert re == RE_TRIAL


def test_a_schedule_has_one_text_and_ends_at_the_number():
    trial = replace(REKD_TRIAL, alpha_schedule="cosine from 0.90", lambda_select_schedule="step from 2e-1 at .25")
    assert (trial.alpha_schedule, trial.lambda_select_schedule) == ("cosine from 0.9", "step from 0.2 at 0.25")
    assert [trial.at(share).alpha for share in (0, 0.5, 1)] == pytest.approx([0.9, 0.6, 0.3])
    assert trial.at(1).alpha == 0.3
    assert trial.at(0.1).seed == trial.seed
    assert REKD_TRIAL.at(0.5) is REKD_TRIAL
    assert "alpha=0.9->0.3:cosine" in str(trial)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha_schedule": "cosine from 1.5"}, r"The first alpha is a share in \[0, 1\], got 1.5"),
        ({"lambda_select_schedule": "linear from -1"}, "The first lambda_select is 0 or more, got -1"),
        ({"alpha_schedule": "cosine from 0.3"}, "alpha goes from 0.3 to 0.3: it is 'constant'"),
        ({"alpha_schedule": "cosine"}, "alpha_schedule is 'constant', 'linear from NUMBER'.*got 'cosine'"),
        ({"alpha_schedule": "cosine from nan"}, "finite number, got nan"),
        ({"alpha_schedule": "step from 0.9"}, "at which share of the run"),
        ({"alpha_schedule": "step from 0.9 at 1"}, r"a share of the run in \(0, 1\), got 1"),
        ({"distils": "prediction"}, "lambda_rationale is not read.*got 0.5. Give 0"),
        ({"further_teachers": "a:1"}, "Write a and 'c:1'"),
        ({"further_teachers": "d"}, r"further_teachers is DIGEST:WEIGHT"),
        ({"further_teachers": "d:-1"}, "The weight of the teacher d is a number above 0, got -1"),
    ],
)
def test_a_curriculum_or_teachers_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(REKD_TRIAL, **fields)


def test_teachers_are_the_same_trial_however_they_are_told():
    trial = replace(REKD_TRIAL, **taught_by({"e": 1, "d": 2}))
    assert trial == replace(REKD_TRIAL, **taught_by({"d": 1, "e": 0.5}))
    assert trial.teachers == {"d": 1.0, "e": 0.5}
    assert REKD_TRIAL.teachers == {"c": 1.0}
    assert RE_TRIAL.teachers == {}


# --- What a trial says of itself ------------------------------------------------------------------------------------


def test_a_setting_is_a_trial_without_its_seed():
    assert replace(RE_TRIAL, seed=1).setting == RE_TRIAL.setting
    assert replace(RE_TRIAL, lambda_select=0.2).setting != RE_TRIAL.setting
    assert "seed" not in RE_TRIAL.setting


def test_fidelity_is_a_preset_only_where_all_of_it_holds():
    assert RE_TRIAL.fidelity == "paper"
    authors = replace(RE_TRIAL, **FIDELITY["authors"])
    assert authors.fidelity == "authors"
    for name, value in FIDELITY["paper"].items():
        assert replace(authors, **{name: value}).fidelity == "mixed"
        assert FIDELITY["authors"][name] != value
    assert all(preset.keys() == FIDELITY["paper"].keys() for preset in PRESETS.values())
    for name, preset in PRESETS.items():
        assert replace(RE_TRIAL, **preset).fidelity == name


def test_a_trial_reads_as_what_tells_it_apart():
    assert str(REKD_TRIAL) == "toy vit rekd p_target=0.15 lambda_select=0.1 alpha=0.3 epochs=3 seed=2026"
    assert str(CLS_TRIAL) == "toy vit cls epochs=3 seed=2026"
