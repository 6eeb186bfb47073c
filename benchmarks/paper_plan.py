"""The epochs of the paper's 880 trials by task, model and objective, so that an estimate needs neither the plan nor Ray.

`tests/test_gpu_benchmark.py` holds them against `sweeps.reproduce`'s plan.
"""

TRAIN_SAMPLES = {"cifar10": 40_000, "cifar100": 40_000, "imdb": 20_000}
DEV_SAMPLES = {"cifar10": 10_000, "cifar100": 10_000, "imdb": 5_000}
"""Section 3.2."""

TRIALS = {
    ("cifar10", "vit-base", "cls"): 200,
    ("cifar10", "vit-base", "re"): 4_550,
    ("cifar10", "vit-small", "cls"): 200,
    ("cifar10", "vit-small", "re"): 4_550,
    ("cifar10", "vit-small", "rekd"): 1_400,
    ("cifar10", "vit-tiny", "cls"): 200,
    ("cifar10", "vit-tiny", "re"): 4_550,
    ("cifar10", "vit-tiny", "rekd"): 1_400,
    ("cifar100", "vit-base", "cls"): 200,
    ("cifar100", "vit-base", "re"): 350,
    ("cifar100", "vit-small", "cls"): 200,
    ("cifar100", "vit-small", "re"): 350,
    ("cifar100", "vit-small", "rekd"): 1_400,
    ("cifar100", "vit-tiny", "cls"): 200,
    ("cifar100", "vit-tiny", "re"): 350,
    ("cifar100", "vit-tiny", "rekd"): 1_400,
    ("imdb", "bert-base", "cls"): 200,
    ("imdb", "bert-base", "re"): 2_100,
    ("imdb", "bert-mini", "cls"): 200,
    ("imdb", "bert-mini", "re"): 2_100,
    ("imdb", "bert-mini", "rekd"): 350,
    ("imdb", "bert-small", "cls"): 200,
    ("imdb", "bert-small", "re"): 2_450,
    ("imdb", "bert-small", "rekd"): 350,
}
"""Epochs of all trials together."""
