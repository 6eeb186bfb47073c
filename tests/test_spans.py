"""What is marked in a text for a token, and tokenizers that are read for what they are."""

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import stand_ins
import tiny
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertweetTokenizer, PreTrainedTokenizerFast

from rekd.tasks.data import load_data
from rekd.tasks.spans import aligned, read_text
from rekd.tasks.task import load_task
from rekd.tasks.texts import load_tokenizer
from rekd.tasks.tokenizer_files import TOKENIZER_FILES


def fast(tokenizer: Tokenizer, **settings) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **settings)


def byte_level(*, trim: bool) -> PreTrainedTokenizerFast:
    """As RoBERTa's, with no merges: a token a byte, and one for a space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<pad>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.decoder = decoders.ByteLevel()
    return fast(tokenizer)


def metaspace(*pieces: str, split: bool = True) -> PreTrainedTokenizerFast:
    """As SentencePiece's: a space is part of the token behind it. Not `split`, a whole text is one word to it."""
    scores = [("<pad>", 0.0), ("<unk>", 0.0), *((piece, -1.0) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    return fast(tokenizer)


def bertweet(folder: Path, *words: str) -> BertweetTokenizer:
    """A slow tokenizer with marks of its own: of whole words, and of letters that go on as `h@@`."""
    letters = [chr(code) for code in range(97, 123)]
    folder.mkdir(exist_ok=True)
    pieces = [*words, *letters, *(f"{letter}@@" for letter in letters)]
    (folder / "vocab.txt").write_text("".join(f"{piece} 1\n" for piece in pieces))
    merges = []
    for word in words:
        for length in range(1, len(word)):
            last = word[length] + ("</w>" if length == len(word) - 1 else "")
            merges.append(f"{word[:length]} {last} 1\n")
    (folder / "bpe.codes").write_text("".join(merges))
    return BertweetTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes"))


def marked(tokenizer, text: str, *, max_length: int = 40) -> list[str]:
    """What is marked for each token that stands for something."""
    read = read_text(tokenizer, text, max_length=max_length)
    assert len(read.spans) == len(read.tokens) == len(read.input_ids) == max_length
    return [text[start:end] for start, end in read.spans if end]


@pytest.fixture(scope="module")
def word_pieces(text_task):
    return load_tokenizer(load_task(text_task))


def test_a_word_is_marked_whole(word_pieces):
    assert list(dict.fromkeys(marked(word_pieces, "Unfair, but  good"))) == ["Unfair", ",", "but", "good"]


@pytest.mark.parametrize("trim", [True, False])
def test_bytes_are_the_letters_that_they_are_of(trim):
    words = marked(byte_level(trim=trim), "café 😀 ok")
    assert list(dict.fromkeys(words)) == ["café", "😀", "ok"]


def test_the_space_before_a_word_is_not_marked():
    text = "It is  a film"
    tokenizer = metaspace("▁It", "▁is", "▁a", "▁film", "▁")
    assert marked(tokenizer, text) == ["It", "is", "a", "film"]
    spans = [span for span in read_text(tokenizer, text, max_length=9).spans if span[1]]
    assert spans[-1] == (9, 13)


def test_a_tokenizer_that_takes_a_text_for_one_word_is_marked_by_words():
    text = "a fine film"
    assert marked(metaspace("▁a", "▁fi", "ne", "▁film", split=False), text) == ["a", "fine", "fine", "film"]


def test_an_unknown_token_keeps_its_place(word_pieces):
    text = "a 😀 film"
    read = read_text(word_pieces, text, max_length=12)
    at = read.tokens.index("[UNK]")
    assert text[slice(*read.spans[at])] == "😀"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [("这部电影很好看", ["这部", "电影", "很", "好看"]), ("หนังดีมาก", ["หนัง", "ดี", "มาก"])],
)
def test_scripts_without_spaces_are_marked_by_tokens(text, pieces):
    assert marked(metaspace("▁", *pieces), text) == pieces


def test_parts_of_one_letter_are_marked_together():
    assert set(marked(byte_level(trim=True), "好看")) == {"好", "看"}


def test_korean_and_arabic_have_words():
    tokenizer = metaspace("▁영화", "가", "▁좋다", "▁فيل", "م")
    assert marked(tokenizer, "영화가 좋다 فيلم") == ["영화가", "영화가", "좋다", "فيلم", "فيلم"]


def test_where_reading_ended_is_known(word_pieces):
    text = "a good film and a bad film"
    assert read_text(word_pieces, text, max_length=9).read == (0, len(text))
    assert read_text(word_pieces, f"{text}  \x00", max_length=9).read == (0, len(text) + 3)
    cut = read_text(word_pieces, text, max_length=5)
    assert text[slice(*cut.read)] == "a good film"
    word_pieces.truncation_side = "left"
    try:
        assert text[slice(*read_text(word_pieces, text, max_length=5).read)] == "a bad film"
    finally:
        word_pieces.truncation_side = "right"


def test_a_slow_tokenizer_is_aligned_by_text(tmp_path):
    tokenizer = bertweet(tmp_path, "good", "film")
    assert not tokenizer.is_fast
    text = "a good  film 😀 he said"
    assert list(dict.fromkeys(marked(tokenizer, text))) == ["a", "good", "film", "😀", "he", "said"]
    read = read_text(tokenizer, text, max_length=6)
    assert read.tokens == ["<s>", "a", "good", "film", "<unk>", "</s>"]
    assert text[slice(*read.read)].startswith("a good  film")
    assert read.read[1] < len(text)
    whole = tokenizer(text)["input_ids"]
    assert read_text(tokenizer, text, max_length=40).input_ids[: len(whole)] == whole


def test_pieces_are_found_in_another_spelling():
    text = "See  https://x.y/z, Café isn't 😀 bad"
    pieces = ["", "see", "HTTPURL", ",", "cafe", "is", "n't", "\0", "bad"]
    found = [text[slice(*span)] for span in aligned(text, pieces)]
    assert found[0] == ""
    assert found[3:] == [",", "Café", "is", "n't", "😀", "bad"]


def test_a_slow_tokenizer_is_explained_too(text_task, tmp_path, store):
    """It once trained to the end, and `explain` then failed."""
    from rekd.method.explain import Explainer
    from rekd.running.one_trial import run_trial
    from rekd.running.supplies import Supplies

    folder = shutil.copytree(text_task.parent, tmp_path / "task")
    bertweet(folder / "slow", *stand_ins.FILLER_WORDS).save_pretrained(folder / "slow")
    for name in ("bert-base", "bert-small", "bert-mini"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name / file).unlink()
    task = replace(load_task(folder / text_task.name), tokenizer=str(folder / "slow"))
    trial = task.trial("re", "bert-mini", seed=1, epochs=1)
    for _ in run_trial(trial, task=task, store=store, supplies=Supplies(store, device=tiny.CPU)):
        pass
    (explanation,) = Explainer(Path(store.model_folder(trial.digest)))(["The film was said"])
    assert [word.text for word in explanation.words or ()] == ["The", "film", "was", "said"]


# ---- the tokenizer of a task


def test_the_shown_texts_are_those_that_were_written(text_task):
    task = load_task(text_task)
    data = load_data(task)
    import datasets

    rows = datasets.load_from_disk(task.dataset)["test"]["text"]
    assert [read.text for read in data.shown_texts] == [*rows[:4], *rows[20:24]]
    for read, ids in zip(data.shown_texts, data.test.arrays["input_ids"][[0, 1, 2, 3, 20, 21, 22, 23]], strict=True):
        assert read.input_ids == ids.tolist()
    halved = load_data(replace(task, test_fraction=0.5))
    assert all(read.input_ids in halved.test.arrays["input_ids"].tolist() for read in halved.shown_texts)


def set_in(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_padding_is_on_the_right_always(text_task, tmp_path):
    task = load_task(text_task)
    source = Path(task.tokenizer_source[0])
    by_config = Path(shutil.copytree(source, tmp_path / "config"))
    set_in(by_config / "tokenizer_config.json", padding_side="left")
    by_fast_form = Path(shutil.copytree(source, tmp_path / "fast"))
    tokenizer = Tokenizer.from_file(str(by_fast_form / "tokenizer.json"))
    tokenizer.enable_padding(direction="left", pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(by_fast_form / "tokenizer.json"))
    settings = json.loads((by_fast_form / "tokenizer_config.json").read_text())
    settings.pop("padding_side", None)
    (by_fast_form / "tokenizer_config.json").write_text(json.dumps(settings))
    plain = load_data(task)
    for folder in (by_config, by_fast_form):
        assert transformers.AutoTokenizer.from_pretrained(folder).padding_side == "left"
        left = replace(task, tokenizer=str(folder))
        assert load_data(left).fingerprint == plain.fingerprint
        assert left._tokens_identity()[-1] == "padded on the right"
        load_tokenizer(left).save_pretrained(tmp_path / "kept")
        assert transformers.AutoTokenizer.from_pretrained(tmp_path / "kept").padding_side == "right"
        (folder / "README.md").write_text("mine")
        assert replace(left).digest == left.digest
    assert len(task._tokens_identity()) == 2


def test_every_file_that_a_tokenizer_may_read_is_part_of_the_identity(text_task, tmp_path):
    declared = set()
    folder = Path(transformers.__file__).parent
    for file in [*folder.glob("tokenization*.py"), *folder.glob("models/*/tokenization*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").endswith("VOCAB_FILES_NAMES")
            if named and isinstance(node.value, ast.Dict):
                declared |= {value.value for value in node.value.values if isinstance(value, ast.Constant)}
    assert "bpe.codes" in declared
    assert declared <= set(TOKENIZER_FILES)

    task = load_task(text_task)
    bertweet(tmp_path / "slow")
    before = replace(task, tokenizer=str(tmp_path / "slow")).digest
    (tmp_path / "slow/bpe.codes").write_text("g o 1\n")
    assert replace(task, tokenizer=str(tmp_path / "slow")).digest != before


def vocabulary_of(task) -> str:
    vocabulary = json.loads((Path(task.tokenizer_source[0]) / "tokenizer.json").read_text())["model"]["vocab"]
    return "\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n"


def with_tokenizer(task, folder: Path, **files):
    """The task with models that have no tokenizer of their own, and one of these files: texts, or tables of settings."""
    folder.mkdir()
    for name, content in files.items():
        file = folder / name.replace("_json", ".json").replace("_txt", ".txt")
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    models = {name: replace(model, source=None, config=tiny.CONFIGS["bert"]) for name, model in task.models.items()}
    models = {name: replace(one, config={**one.config, "vocab_size": 100}) for name, one in models.items()}
    for one in models.values():
        one.config["max_position_embeddings"] = 64
    return replace(task, tokenizer=str(folder), models=models)


def test_the_class_that_a_configuration_makes_of_a_vocabulary_is_part_of_the_identity(text_task, tmp_path):
    """Where it is not what such a vocabulary usually is, for then it changes tokens; and nothing else there does."""
    task = load_task(text_task)
    configs = {
        "alone": {},
        "usual": {"config_json": {"model_type": "bert", "tokenizer_class": "BertTokenizerFast"}},
        "like": {"config_json": {"model_type": "distilbert"}},
        "other": {"config_json": {"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}},
    }
    tasks = {
        name: with_tokenizer(task, tmp_path / name, vocab_txt=vocabulary_of(task), **files)
        for name, files in configs.items()
    }
    digests = {name: one.digest for name, one in tasks.items()}
    assert digests["alone"] == digests["usual"] == digests["like"] != digests["other"]
    tokens = {name: load_data(tasks[name]).fingerprint for name in ("usual", "like", "other")}
    assert tokens["usual"] == tokens["like"] != tokens["other"]
    bertweet(tmp_path / "tweets")
    tweets = replace(task, tokenizer=str(tmp_path / "tweets"))
    before = tweets.digest
    (tmp_path / "tweets/config.json").write_text('{"model_type": "roberta", "tokenizer_class": "BertweetTokenizer"}')
    assert replace(tweets).digest == before


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_configuration_that_makes_a_tokenizer_another_one_is_refused(text_task, tmp_path, family):
    """Its own files tell lower letters from capitals or say that they do not, and the library would not listen to them."""
    task = load_task(text_task)
    source = Path(task.tokenizer_source[0])
    files = {"tokenizer_json": json.loads((source / "tokenizer.json").read_text())}
    files["tokenizer_json"]["normalizer"]["lowercase"] = False
    if family == "modernbert":  # whose tokenizers are what their tokenizer.json says
        files["tokenizer_config_json"] = json.loads((source / "tokenizer_config.json").read_text())
    odd = with_tokenizer(task, tmp_path / "odd", **files, config_json={"model_type": family})
    with pytest.raises(
        ValueError, match=r"odd/config.json makes the tokenizer there a .*, which cuts '.*' otherwise than"
    ):
        load_data(odd)


def test_a_tokenizer_that_knows_no_word_is_refused_and_one_that_knows_few_is_mentioned(text_task, tmp_path):
    task = load_task(text_task)
    # transformers takes it for one of RoBERTa's without a word, and every text for no token.
    as_roberta = {"vocab_txt": vocabulary_of(task), "config_json": {"model_type": "roberta"}}
    with pytest.raises(ValueError, match="read as RobertaTokenizer, knows no word of"):
        load_data(with_tokenizer(task, tmp_path / "no", **as_roberta))
    few = {"vocab_txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\na\n", "config_json": {"model_type": "bert"}}
    remark = load_data(with_tokenizer(task, tmp_path / "few", **few)).remarks[-1]
    assert remark.startswith("imdb: 90% of the tokens of")


def test_texts_of_no_token_are_counted(text_task, tmp_path):
    rows = [{"text": f"film {chr(97 + number)}", "label": number % 2} for number in range(20)]
    rows[3]["text"] = rows[4]["text"] = "\u200b"  # a space of no width, which the tokenizer leaves out
    for name in ("train", "test"):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows if name == "train" else rows[5:]))
    remarks = load_data(replace(load_task(text_task), dataset=str(tmp_path))).remarks
    assert remarks == (f"imdb: 2 texts of {tmp_path} have no token: there is nothing to select from.",)


@pytest.mark.parametrize("own", ["moved", "unknown", "broken", "none"])
def test_a_model_that_was_made_with_another_tokenizer_is_refused(text_task, tmp_path, own):
    folder = shutil.copytree(text_task.parent, tmp_path / "task")
    task = load_task(folder / text_task.name)
    assert len(load_data(task).remarks) == 1  # of the split that is not read
    file = folder / "bert-mini/tokenizer.json"
    settings = json.loads(file.read_text())
    vocabulary = settings["model"]["vocab"]
    message = ""
    if own == "moved":
        vocabulary["film"], vocabulary["movie"] = vocabulary["movie"], vocabulary["film"]
        message = (
            rf"gives 'film' the number {vocabulary['movie']}, that of the model bert-mini number {vocabulary['film']}"
        )
    elif own == "unknown":
        vocabulary["cinema"] = vocabulary.pop("film")
        message = "gives 'film' the number .*, that of the model bert-mini no number: the model would read nonsense"
    file.write_text("{" if own == "broken" else json.dumps(settings))
    if own == "none":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / "bert-mini" / name).unlink()
    if own in ("moved", "unknown"):
        with pytest.raises(ValueError, match=message) as caught:
            load_data(task)
        assert "\n" not in str(caught.value)
    else:
        remarks = [remark for remark in load_data(task).remarks if "tokenizer" in remark]
        assert len(remarks) == (own == "broken")


@pytest.mark.parametrize("error", [KeyError("x"), ImportError("a\nb"), AttributeError("y"), RuntimeError("z")])
def test_whatever_a_tokenizer_raises_is_one_line(text_task, monkeypatch, error):
    def fails(*given, **named):
        raise error

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fails)
    with pytest.raises(
        ValueError, match=r"imdb: the tokenizer .* cannot be read: .*\. Write the folder with"
    ) as caught:
        load_tokenizer(load_task(text_task))
    assert "\n" not in str(caught.value)
