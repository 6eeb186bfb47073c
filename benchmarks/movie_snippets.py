"""A task of real texts, small enough for a CPU: snippets of movie reviews that people rated.

`python -m benchmarks.movie_snippets movieReviewSnippets_GroundTruth.txt FOLDER` writes a task file, its table and a tokenizer
of the snippets' words. The snippets are those of Hutto and Gilbert (2014), which the source distribution of vaderSentiment
brings along (`pip download --no-binary :all: vaderSentiment==3.3.2`; in it `additional_resources/hutto_ICWSM_2014.tar.gz`).
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

MOST_WORDS = 6000

TASK = """# Snippets of movie reviews, liked or disliked. Encoders without pretrained weights.
kind = "text"
dataset = "snippets.csv"
input_column = "text"
num_classes = 2
class_names = ["disliked", "liked"]
max_length = 32
tokenizer = "tokenizer"
test_fraction = 0.2
teacher = "bert-teacher"
students = ["bert-student"]
seeds = "2026-2030"

[defaults]
epochs = 4
cls.epochs = 2
learning_rate = 2e-3 # from nothing: the paper's 1e-5 is for fine-tuning
p_target = 0.3       # at 10 % a predictor of this size learns nothing of the first, random rationales
lambda_select = 0.01
dropout = 0.1

[models.bert-teacher]
defaults.learning_rate = 5e-4

[models.bert-teacher.config]
model_type = "bert"
vocab_size = {vocabulary}
max_position_embeddings = 32
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 64
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0

[models.bert-student.config]
model_type = "bert"
vocab_size = {vocabulary}
max_position_embeddings = 32
hidden_size = 12
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 24
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0
"""


def read(file: Path) -> pd.DataFrame:
    """The snippets and whether their mean rating, of -4 to 4, is above 0; without those that are rated 0."""
    table = pd.read_csv(file, sep="\t", names=["number", "rating", "text"], quoting=3, encoding="utf-8")
    rated = table[table["rating"] != 0]
    return pd.DataFrame({"text": rated["text"].str.strip(), "label": (rated["rating"] > 0).astype(int)})


def vocabulary(texts: pd.Series) -> list[str]:
    """The words and marks that are there twice or more, the most frequent first."""
    counts = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    return [word for word, count in counts.most_common(MOST_WORDS) if count > 1]


def write(snippets: pd.DataFrame, folder: Path) -> Path:
    """Writes the task into a new folder; returns its file."""
    words = [*SPECIAL, *vocabulary(snippets["text"])]
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    snippets.to_csv(folder / "snippets.csv", index=False)
    file = folder / "movie-snippets.toml"
    file.write_text(TASK.format(vocabulary=len(words)), encoding="utf-8")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    snippets = read(options.file)
    print(f"{len(snippets)} snippets, {snippets['label'].mean():.1%} liked: {write(snippets, options.folder)}")


if __name__ == "__main__":
    main()
