"""Task files: what extends what, which default wins, and what is refused."""

from pathlib import Path

import pytest

from rekd.tasks.task import load_task
from rekd.tasks.task_file import seeds_in

MINIMAL = """
kind = "image"
dataset = "data"
input_column = "img"
num_classes = 10
teacher = "big"
students = ["small"]
[defaults]
p_target = 0.2
lambda_select = 0.1
[models.big.config]
model_type = "vit"
[models.small.config]
model_type = "vit"
"""


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def test_defaults_the_more_special_one_wins(tmp_path):
    (tmp_path / "data").mkdir()
    more = """
    [models.big.defaults]
    epochs = 4
    learning_rate = 1e-2
    re.learning_rate = 1e-3
    """
    task = load_task(write(tmp_path, MINIMAL.replace("p_target = 0.2", "p_target = 0.2\ncls.epochs = 7") + more))
    epochs = {(o, m): task.defaults_of(o, m)["epochs"] for o in ("cls", "re") for m in ("big", "small")}
    assert epochs == {("re", "small"): 35, ("re", "big"): 4, ("cls", "small"): 7, ("cls", "big"): 7}
    assert task.defaults_of("re", "big")["learning_rate"] == 1e-3
    assert task.defaults_of("cls", "big")["learning_rate"] == 1e-2
    assert "p_target" not in task.defaults_of("cls", "big")


def test_an_extending_file_keeps_what_it_does_not_name(image_task, tmp_path):
    data = image_task.parent / "data"
    task = load_task(write(tmp_path, f'extends = "cifar10"\ndataset = "{data}"\n[defaults]\nepochs = 3'))
    paper = load_task("cifar10")
    assert (task.name, task.num_classes, task.models) == ("cifar10", 10, paper.models)
    assert task.dataset == str(data)
    # A number for all objectives replaces also the paper's for cls.
    assert {task.defaults_of(o, "vit-tiny")["epochs"] for o in ("cls", "re", "rekd")} == {3}
    assert task.defaults_of("re", "vit-tiny")["lambda_select"] == 5e-2
    assert task.digest != paper.digest

    again = load_task(
        write(tmp_path, 'extends = "mine.toml"\nname = "other"\n[models.vit-tiny]\nsource = "a/b"', "2.toml")
    )
    assert (again.name, again.dataset, again.models["vit-tiny"].source) == ("other", str(data), "a/b")
    assert again.models["vit-tiny"].defaults == paper.models["vit-tiny"].defaults
    assert again.digest == task.digest  # names and models are not data


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "image"', "", "kind is missing"),
        ('kind = "image"', 'kind = "audio"', "kind is one of image, text, got 'audio'"),
        ('kind = "image"', 'kind = "text"', "max_length is the number of tokens a text"),
        ('kind = "image"', 'kind = "text"\nmax_length = 9', "tokenizer is missing"),
        ('kind = "image"', "kind = ", "not valid TOML"),
        ("num_classes = 10", "num_classes = 1", "num_classes is 2 or more, got 1"),
        ("num_classes = 10", "num_classes = true", "num_classes is a whole number, got True"),
        ("num_classes = 10", "num_clases = 10", "num_clases is not a key.*Did you mean num_classes"),
        ("num_classes = 10", 'num_classes = 10\nclass_names = ["a", "b"]', "class_names is 10 different names"),
        ("num_classes = 10", "num_classes = 10\ndev_fraction = 20", r"dev_fraction is a share in \(0, 1\), got 20"),
        ("num_classes = 10", 'num_classes = 10\nname = "a/b"', "name is made of letters"),
        ("num_classes = 10", 'num_classes = 10\nextends = "cifar"', "extends is one of cifar10"),
        ("num_classes = 10", 'num_classes = 10\nextends = "mine.toml"', "extends comes back to this file"),
        ('dataset = "data"', 'dataset = "../data"', "leaves the folder of the task file"),
        ('dataset = "data"', 'dataset = "data/../../x"', "leaves the folder of the task file"),
        (
            'dataset = "data"',
            'dataset = "data"\ntokenizer = "../x"',
            "tokenizer = '../x' leaves the folder of the task",
        ),
        (
            'dataset = "data"',
            'dataset = "data"\nextends = "../x.toml"',
            "extends = '../x.toml' leaves the folder of the",
        ),
        (
            "[models.small.config]\nmodel_type",
            "[models.small]\nsource = 'data/../../x' #",
            "source = .* leaves the folder",
        ),
        ('dataset = "data"', 'dataset = "~/no-such-folder"', "no-such-folder does not exist"),
        ('dataset = "data"', 'dataset = "~nobody-here/x"', "'~nobody-here/x' names a home folder that is not there"),
        ('dataset = "data"', 'dataset = "/no/such/folder"', r"/no/such/folder does not exist"),
        ('dataset = "data"', 'dataset = "./imdb"', "does not exist"),
        ('dataset = "data"', 'dataset = "train.csv"', "does not exist"),
        ('dataset = "data"', 'dataset = "a/b/c"', "nor a name on the Hugging Face Hub"),
        ('dataset = "data"', 'dataset = "digits"', "image_mode is 'L' for the dataset 'digits'"),
        ('teacher = "big"', 'teacher = "huge"', "teacher is one of big, small, got 'huge'"),
        ('students = ["small"]', 'students = ["tiny"]', "students is one of big, small, got 'tiny'"),
        ('students = ["small"]', "students = [1]", "students is a list of texts"),
        (
            "num_classes = 10",
            "num_classes = 10\nseeds = 2026",
            "seeds is a text such as '2026-2035' or a list of whole",
        ),
        ("num_classes = 10", 'num_classes = 10\nseeds = ["2026"]', "seeds is a text such as"),
        ("num_classes = 10", 'num_classes = 10\nseeds = "all"', "seeds are whole numbers such as"),
        ("p_target = 0.2", "p_target = 15", "p_target is a fraction.*For 15 % write 0.15"),
        ("p_target = 0.2", "p_taget = 0.2", "defaults.p_taget is not a default.*Did you mean p_target"),
        ("p_target = 0.2", "seed = 1", "defaults.seed is not a default"),
        ("p_target = 0.2", 'split = "fixed"', "defaults.split is not a default"),
        ("p_target = 0.2", "re = 1", "defaults.re is a table, got 1"),
        ("p_target = 0.2", "re.alpha = 0.1", "defaults.re.alpha is not a default of these trials. Valid: epochs"),
        ("p_target = 0.2", "rekd.alpha = 1.5", r"defaults of big for rekd: alpha is a share in \[0, 1\], got 1.5"),
        ("p_target = 0.2", 'epochs = "3"', "defaults.epochs is a whole number, got '3'"),
        ("[models.small.config]", "[models.small]", "models.small.model_type is not a key"),
        (
            "[models.small.config]\nmodel_type",
            "[models.small]\n[models.small.config]\nhidden_size",
            "has no model_type",
        ),
        ("[models.small.config]\nmodel_type", "[models.small]\nrevision", "neither of source and config"),
        ("[models.small.config]", '[models.small]\nsource = "a/b"\n[models.small.config]', "both of source and config"),
        ("[models.small.config]\nmodel_type", "[models.small]\nsource = './x' #", "does not exist"),
        ("[models.small.config]\nmodel_type", "[models.small]\nsource = 'data' #", "is not a folder with config.json"),
    ],
)
def test_a_wrong_task_file_is_refused_in_one_line(tmp_path, old, new, message):
    (tmp_path / "data").mkdir()
    load_task(write(tmp_path, MINIMAL))
    assert old in MINIMAL
    with pytest.raises(ValueError, match=message) as caught:
        load_task(write(tmp_path, MINIMAL.replace(old, new)))
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absolute_paths_and_those_from_home_are_followed(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    monkeypatch.setenv("HOME", str(home))
    (home / "data").mkdir(parents=True)
    write(home, MINIMAL, "base.toml")
    for extends in ("~/base.toml", str(home / "base.toml")):
        for dataset in ("~/data", str(home / "data")):
            task = load_task(write(here, f'extends = "{extends}"\ndataset = "{dataset}"'))
            assert task.dataset == str(home / "data")


def test_a_task_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"The task file /no/mine.toml cannot be read"):
        load_task("/no/mine.toml")


def test_seeds_are_the_papers_or_a_range_or_a_list_and_change_no_digest(tmp_path):
    paper = load_task("cifar10")
    assert paper.seeds == tuple(range(2026, 2036))
    assert load_task("digits").seeds == tuple(range(2026, 2031))
    for written, seeds in (('"2026-2028"', (2026, 2027, 2028)), ("[5, 3]", (5, 3)), ('"1, 4-6"', (1, 4, 5, 6))):
        task = load_task(write(tmp_path, f'extends = "cifar10"\nseeds = {written}'))
        assert task.seeds == seeds
        assert task.digest == paper.digest
        assert task.trial("re", "vit-tiny", seed=1) == paper.trial("re", "vit-tiny", seed=1)


def test_seeds_that_are_none_or_too_many_are_refused():
    for text, message in (
        ("", "seeds are whole numbers"),
        ("1,", "seeds are whole numbers"),
        ("-1", "seeds are whole numbers"),
        ("1.5", "seeds are whole numbers"),
        ("2035-2026", "from 2035 to 2026 are none"),
        ("2026,2026", "name one twice"),
        ("2026-20350", "more than 10,000"),
    ):
        with pytest.raises(ValueError, match=message):
            seeds_in(text)


# --- Curricula ------------------------------------------------------------------------------------------------------

MOVING = '{ from = 0.9, to = 0.1, shape = "cosine" }'


def alpha_of(task, model: str = "vit-student", **overrides) -> tuple[float | None, str | None]:
    trial = task.trial("rekd", model, seed=1, teacher_digest="t", **overrides)
    return trial.alpha, trial.alpha_schedule


def test_a_default_moves_as_a_table_or_as_a_grids_text(tmp_path):
    for written in (MOVING, '"0.9->0.1:cosine"'):
        task = load_task(write(tmp_path, f'extends = "digits"\n[defaults]\nalpha = {written}'))
        assert alpha_of(task) == (0.1, "cosine from 0.9")
        assert alpha_of(task, alpha=0.3) == (0.3, "constant")
        assert alpha_of(task, alpha="0->0.3:step@0.25") == (0.3, "step from 0 at 0.25")
    assert alpha_of(load_task("digits")) == (0.3, "constant")


def test_a_stronger_number_takes_the_schedule_of_the_weaker_one_away(tmp_path):
    write(tmp_path, f'extends = "digits"\n[defaults]\nalpha = {MOVING}\nrekd.lambda_select = {MOVING}', "base.toml")
    task = load_task(write(tmp_path, 'extends = "base.toml"\n[defaults]\nalpha = 0.2'))
    assert alpha_of(task) == (0.2, "constant")
    trial = task.trial("rekd", "vit-student", seed=1, teacher_digest="t")
    assert trial.lambda_select_schedule == "cosine from 0.9"
    of_model = 'extends = "base.toml"\n[models.vit-student.defaults]\nalpha = 0.4\nrekd.lambda_select = 0.5'
    task = load_task(write(tmp_path, of_model))
    assert alpha_of(task) == (0.4, "constant")
    assert task.trial("rekd", "vit-student", seed=1, teacher_digest="t").lambda_select_schedule == "constant"
    assert alpha_of(task, "vit-teacher") == (0.1, "cosine from 0.9")


@pytest.mark.parametrize(
    ("default", "message"),
    [
        ('alpha = "0.9->0.1"', r"A value that moves is written 0.9->0.1:SHAPE.*linear, cosine, step.*Got '0.9->0.1'"),
        ("alpha = { from = 0.9 }", "A value that moves is written"),
        ('alpha = { from = 0.9, to = 0.1, shape = "root" }', "A value that moves is written"),
        ('alpha = "1.9->0.1:linear"', r"The first alpha is a share in \[0, 1\], got 1.9"),
        ('p_target = "0.9->0.1:linear"', "p_target is a fraction in"),
        ('rekd.alpha = "x"', "A value that moves is written"),
    ],
)
def test_a_move_that_is_none_is_refused_with_the_files_name(default, message, tmp_path):
    with pytest.raises(ValueError, match=f"mine.toml: .*{message}"):
        load_task(write(tmp_path, f'extends = "digits"\n[defaults]\n{default}'))


def test_where_predictions_alone_are_distilled_nothing_reads_lambda_rationale():
    task = load_task("digits")
    trial = task.trial("rekd", "vit-student", seed=1, teacher_digest="t", distils="prediction")
    assert trial.lambda_rationale == 0
    assert task.trial("rekd", "vit-student", seed=1, teacher_digest="t", distils="rationale").lambda_rationale == 0.5


def test_a_tokenizer_of_its_own_is_for_models_of_texts(tmp_path):
    (tmp_path / "own").mkdir()
    of_images = 'extends = "digits"\n[models.vit-student]\ntokenizer = "own"'
    with pytest.raises(ValueError, match=r"models.vit-student.tokenizer is the tokenizer of a model of texts"):
        load_task(write(tmp_path, of_images))
    task = load_task(write(tmp_path, 'extends = "imdb"\n[models.bert-mini]\ntokenizer = "own"'))
    assert task.models["bert-mini"].tokenizer == str(tmp_path / "own")
    assert task.models["bert-mini"].digest == load_task("imdb").models["bert-mini"].digest
    assert [model.name for model in task.readers] == ["bert-base", "bert-small"]
    assert [model.name for model in task.seen_by("bert-mini").readers] == ["bert-mini"]
    assert task.digest == load_task("imdb").digest
