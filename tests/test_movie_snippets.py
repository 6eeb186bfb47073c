"""The task of movie snippets: what is written is a task that can be loaded, with a tokenizer of its words."""

from benchmarks.movie_snippets import SPECIAL, read, write
from rekd.tasks.task import load_task
from rekd.tasks.texts import load_tokenizer

RATED = """1\t2.27\tA fine, fine film .
2\t-0.6\tEffective but ''too tepid'' a film .
3\t0\tNeither .
"""


def test_what_is_written_is_a_task(tmp_path):
    (tmp_path / "rated.txt").write_text(RATED, encoding="utf-8")
    snippets = read(tmp_path / "rated.txt")
    assert snippets["label"].tolist() == [1, 0]  # what is rated 0 is neither
    task = load_task(str(write(snippets, tmp_path / "task")))
    assert task.trial("re", "bert-student", seed=1).p_target == 0.3
    words = ["a", "fine", "film", "."]
    tokens = load_tokenizer(task).tokenize("A fine FILM . effective")
    assert tokens == [*words, "[UNK]"]
    assert task.models["bert-teacher"].config["vocab_size"] == len(SPECIAL) + len({*words, "'"})
