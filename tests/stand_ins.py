"""Small stand-ins for what the paper downloads, saved in the real formats: CIFAR, IMDB, ViT and BERT.

The images are real handwriting in colour and the reviews are decided by their words, so that a few steps of training
show something. Everything is the same every time.
"""

import json
from pathlib import Path

import numpy as np

SENTIMENT_WORDS = (("bad", "awful", "dull", "weak", "boring"), ("good", "great", "fresh", "strong", "moving"))
"""By class: `neg`, `pos`."""
FILLER_WORDS = (
    "the",
    "a",
    "film",
    "movie",
    "plot",
    "cast",
    "scene",
    "story",
    "was",
    "is",
    "very",
    "and",
    "it",
    "of",
    "with",
)


def save_cifar(folder: Path, *, coarse: bool = False, num_train: int = 200, num_test: int = 100) -> Path:
    """CIFAR-10 as `save_to_disk` writes it, or CIFAR-100 with its 20 coarse classes; every class equally often."""
    import datasets

    if coarse:
        labels = {
            "fine_label": datasets.ClassLabel(names=[f"fine {number}" for number in range(100)]),
            "coarse_label": datasets.ClassLabel(names=[f"coarse {number}" for number in range(20)]),
        }
    else:
        labels = {"label": datasets.ClassLabel(names=[f"digit {number}" for number in range(10)])}
    features = datasets.Features({"img": datasets.Image(), **labels})

    images, classes = _coloured_digits(20 if coarse else 10, num_train + num_test)
    splits = {}
    for name, rows in (("train", slice(num_train)), ("test", slice(num_train, None))):
        columns = {"img": _png(images[rows])}
        if coarse:
            columns["coarse_label"] = classes[rows].tolist()
            columns["fine_label"] = [5 * number + row % 5 for row, number in enumerate(classes[rows].tolist())]
        else:
            columns["label"] = classes[rows].tolist()
        splits[name] = datasets.Dataset.from_dict(columns, features=features)
    _save(datasets.DatasetDict(splits), folder)
    return folder


def save_imdb(folder: Path, *, num_train: int = 80, num_test: int = 40) -> Path:
    """IMDB as `save_to_disk` writes it, with its "unsupervised" split, whose labels are -1."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", num_train), ("test", num_test), ("unsupervised", 10)):
        # Grouped by class, as the real one is: whoever forgets to shuffle notices.
        labels = np.repeat([0, 1], [count - count // 2, count // 2])
        texts = [review(int(label), rng=rng) for label in labels]
        shown = [-1] * count if name == "unsupervised" else labels.tolist()
        splits[name] = datasets.Dataset.from_dict({"text": texts, "label": shown}, features=features)
    _save(datasets.DatasetDict(splits), folder)
    return folder


def review(label: int, *, rng: np.random.Generator, num_words: int = 12) -> str:
    """A sentence of filler words in which two words tell the class."""
    words = rng.choice(FILLER_WORDS, size=num_words).tolist()
    for place in rng.choice(num_words, size=2, replace=False):
        words[place] = str(rng.choice(SENTIMENT_WORDS[label]))
    return " ".join(words).capitalize() + "."


def save_vit(folder: Path, *, hidden_size: int = 16, num_hidden_layers: int = 2, seed: int = 0) -> Path:
    """A ViT of 16 patches a 32 x 32 image, as the paper's are: with the classifier of another task on top."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        num_labels=7,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _save(ViTForImageClassification(config), folder)
    # By hand: the class that writes it needs torchvision.
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    return folder


def save_bert(folder: Path, *, hidden_size: int = 16, num_hidden_layers: int = 2, seed: int = 0) -> Path:
    """A BERT with its tokenizer, as the paper's are: with the head of its pretraining on top."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _save(BertForMaskedLM(config), folder)
    return folder


def save_tokenizer(folder: Path, *, extra_words: tuple[str, ...] = ()) -> int:
    """A WordPiece tokenizer of the reviews' words and of single letters; returns the number of its tokens."""
    from transformers import BertTokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "!", *letters, *(f"##{x}" for x in letters)]
    words = [*FILLER_WORDS, *SENTIMENT_WORDS[0], *SENTIMENT_WORDS[1], *extra_words]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys((*pieces, *words)))}
    BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=64).save_pretrained(folder)
    return len(vocabulary)


def save_image_task(folder: Path, extends: str = "cifar10") -> Path:
    """The task file of `cifar10` or `cifar100` with stand-ins for its data and its three models, all in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_cifar(folder / "data", coarse=extends == "cifar100")
    for seed, (name, hidden_size) in enumerate((("vit-base", 32), ("vit-small", 16), ("vit-tiny", 8))):
        save_vit(folder / name, hidden_size=hidden_size, seed=seed)
    return _write_task(folder, extends, ("vit-base", "vit-small", "vit-tiny"))


def save_text_task(folder: Path) -> Path:
    """The task file of `imdb` with stand-ins for its data and its three models, all in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_imdb(folder / "data")
    for seed, (name, hidden_size) in enumerate((("bert-base", 32), ("bert-small", 16), ("bert-mini", 8))):
        save_bert(folder / name, hidden_size=hidden_size, seed=seed)
    return _write_task(
        folder, "imdb", ("bert-base", "bert-small", "bert-mini"), 'max_length = 24\ntokenizer = "bert-base"'
    )


def save_paper(folder: Path) -> list[Path]:
    """The task files of the paper's three tasks, under their own names, each with its stand-ins beside it."""
    images = [save_image_task(folder / name, name) for name in ("cifar10", "cifar100")]
    return [*images, save_text_task(folder / "imdb")]


def _write_task(folder: Path, extends: str, models: tuple[str, ...], more: str = "") -> Path:
    """Names of the paper's models, paths beside the file, and numbers for models that learn from nothing in seconds."""
    lines = [f'extends = "{extends}"', 'dataset = "data"', *more.splitlines()]
    lines += ["[defaults]", "epochs = 2", "learning_rate = 1e-3", "temperature_every = 1"]
    for model in models:
        lines += [f"[models.{model}]", f'source = "{model}"']
    file = folder / f"{extends}.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def _coloured_digits(num_classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` images, uint8 [image, 32, 32, 3], classes in turn: digits in a colour; from class 10 on, as negatives."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(0)
    classes = np.arange(count) % num_classes
    images = np.empty((count, 32, 32, 3), dtype=np.uint8)
    for row, number in enumerate(classes):
        of_class = np.flatnonzero(digits.target == number % 10)
        shape = digits.images[of_class[row // num_classes % len(of_class)]] / 16
        shape = np.kron(1 - shape if number >= 10 else shape, np.ones((4, 4)))
        images[row] = np.rint(255 * shape[..., None] * rng.uniform(0.6, 1, size=3))
    return images, classes


def _png(images: np.ndarray) -> list[dict[str, bytes | None]]:
    """As the hub's Parquet files hold them: bytes, no path."""
    from io import BytesIO

    import PIL.Image

    encoded = []
    for image in images:
        file = BytesIO()
        PIL.Image.fromarray(image).save(file, format="PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    return encoded


def _save(thing, folder: Path) -> None:
    """`save_to_disk` or `save_pretrained` without a progress bar."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    try:
        if isinstance(thing, datasets.DatasetDict):
            thing.save_to_disk(folder)
        else:
            thing.save_pretrained(folder)
    finally:
        datasets.enable_progress_bars()
        transformers.logging.enable_progress_bar()
