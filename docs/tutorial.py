# %% [markdown]
# # From a csv to a model that shows what it read
#
# You have texts in a csv, each with a class. At the end of this page there is a small model that says the class *and* which
# words it read; it is in a folder that others load without this program, and there is a page on which anybody can look at
# what it does. It takes three minutes on two CPU cores. Every cell is run by a test, so what stands here works.
#
# The file is `docs/tutorial.py`: run it as it is, or open it as a notebook (its cells begin with `# %%`).

# %% [markdown]
# ## 1. The csv
#
# So that this runs anywhere, the texts are made here: twenty to thirty words, three of which say liking or dislike. Put your
# own `train.csv` and `test.csv` in their place, with a column of texts and one of classes.

# %%
import csv
import shutil
from importlib.resources import files
from pathlib import Path

from rekd.tasks.planted_reviews import make

Path("reviews").mkdir(exist_ok=True)
for split, rows in make().items():
    with Path(f"reviews/{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "verdict"])
        writer.writerows((row["text"], row["label"]) for row in rows[:1200])

print(Path("reviews/train.csv").read_text(encoding="utf-8")[:200])

# %% [markdown]
# ## 2. The task
#
# A few lines of TOML say what the columns are and which models there are. With pretrained models they would be
#
# ```toml
# kind = "text"
# dataset = "reviews"                 # a folder beside this file, with train.csv and test.csv
# input_column = "review"
# label_column = "verdict"
# num_classes = 2
# max_length = 128
# teacher = "large"
# students = ["small"]
#
# [defaults]
# p_target = 0.10
# lambda_select = 1e-4
#
# [models.large]
# source = "bert-base-uncased"
#
# [models.small]
# source = "distilbert-base-uncased"
# ```
#
# and the tokenizer is the teacher's own. `dataset` may also be a name of the hub, a parquet file, an image folder or what
# `save_to_disk` wrote. A folder that is named for a split decides what a file belongs to, else the file's name; a split is one
# table, or numbered parts of one. What is not read is said. Where one of the paper's tasks only lies elsewhere, two lines do:
# `extends = "cifar10"` and `dataset = "/data/cifar10"`.
#
# Here both models begin from nothing, so that nothing is downloaded.

# %%
shutil.copytree(str(files("rekd.tasks") / "task_files" / "planted-reviews"), "tokenizer", dirs_exist_ok=True)

SHAPE = """model_type = "bert"
vocab_size = 231
max_position_embeddings = 32
num_hidden_layers = 1
num_attention_heads = 2
hidden_dropout_prob = 0.0
attention_probs_dropout_prob = 0.0"""

Path("my-reviews.toml").write_text(f"""
kind = "text"
dataset = "reviews"
input_column = "review"
label_column = "verdict"
class_names = ["disliked", "liked"]
num_classes = 2
dev_split = "dev"
max_length = 32
tokenizer = "tokenizer"
teacher = "large"
students = ["small"]

[defaults]
epochs = 20
learning_rate = 2e-3
p_target = "3/32"
lambda_select = 0.03
alpha = 0.3
dropout = 0.1

[models.large.config]
{SHAPE}
hidden_size = 48
intermediate_size = 96

[models.small.config]
{SHAPE}
hidden_size = 12
intermediate_size = 24
""")

# %%
from rekd import load_task

task = load_task("my-reviews.toml")
print(task.trial("re", "small", seed=0))

# %% [markdown]
# ## 3. Training
#
# First the teacher, which selects words by itself (RE). Then the student twice for each of two seeds: alone (RE), and taught
# by the teacher (REKD). `run_sweep` spreads them over this machine, or over a cluster; what is in the store is never trained
# again: run this cell twice, and the second time takes seconds.

# %%
from rekd import run_sweep

teacher = task.trial("re", "large", seed=0, learning_rate=1e-3)
alone = [task.trial("re", "small", seed=seed) for seed in (0, 1)]
taught = [task.trial("rekd", "small", seed=seed, teacher_digest=teacher.digest) for seed in (0, 1)]
run_sweep([teacher, *alone], tasks=[task], store="results")
run_sweep(taught, tasks=[task], store="results")

# %% [markdown]
# ## 4. What came out
#
# Everything is a frame, with a row a trial.

# %%
import analysis

trials = analysis.load_trials("results")
print(trials[["model", "objective", "seed", "dev_loss", "test_accuracy", "test_rationale_ratio"]].round(3))

# %% [markdown]
# ## 5. The best student, as a folder
#
# The seed is chosen by its dev loss, never by test. The folder is in the manner of Hugging Face; its `README.md` is filled
# from the ledger. In a shell: `rekd export --best small --to exported`.

# %%
from rekd import export_model

best = analysis.load_trials("results", [trial.digest for trial in taught]).sort_values("dev_loss")["digest"].iloc[0]
folder = export_model(f"results/models/{best}", to="exported") if not Path("exported").exists() else Path("exported")
print(folder.joinpath("README.md").read_text(encoding="utf-8")[:400])

# %% [markdown]
# ## 6. What it reads
#
# In a shell: `rekd explain exported "the plot was sloppy but the ending superb"`.

# %%
from rekd import Explainer

explainer = Explainer(folder)
for explanation in explainer(["the plot was sloppy and the ending awful", "a lovely film with a superb score"]):
    print(explanation.label, [word.text for word in explanation.words or () if word.selected])

# %% [markdown]
# ## 7. Many, on one page
#
# Teacher and student side by side. In a shell: `rekd explain results/models/DIGEST exported reviews/test.csv --column review
# --to page.html`; and `rekd explain exported --serve` is a page to type into.

# %%
from rekd.handover.given import inputs_of
from rekd.handover.pages import write_page
from rekd.handover.side_by_side import explain_all, named_explainers

models = named_explainers([Path(f"results/models/{teacher.digest}"), folder])
inputs = inputs_of(["reviews/test.csv"], kind="text", column="review")
number = write_page(explain_all(models, inputs), Path("page.html"), title="What two models read")
print(f"{number} reviews are on page.html.")
