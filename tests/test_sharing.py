"""How many trials share a GPU, and what Tune asks Ray for."""

import pytest

import rekd.running.tune as tune_module
from rekd.cluster.connect import Cluster
from rekd.running.gpu_shares import CONTEXT, HEADROOM, MOST, Shares, measured_shares, share
from rekd.tasks.task import load_task

GB = 10**9


def test_as_many_trials_as_fit_share_a_gpu():
    total = 48 * GB
    assert share(int(46 * GB / HEADROOM), total) == 1
    assert share(int((24 * GB - CONTEXT) / HEADROOM), total) == 1 / 2
    assert share(int((24 * GB - CONTEXT) / HEADROOM) + GB, total) == 1
    assert share(100 * GB, total) == 1  # it will not fit, and its row will say so
    assert share(1, total) == 1 / MOST


def test_each_trial_is_given_the_share_of_its_model_and_one_with_a_live_teacher_a_whole_gpu():
    task = load_task("cifar10")
    shares = Shares(default=1.0, by_kind={("cifar10", "vit-tiny"): 0.25, ("cifar10", "vit-base"): 0.5})
    assert shares.smallest == 0.25
    resources = tune_module._resources(shares, {"cifar10": task})

    def gpus(model: str, objective: str = "re", **overrides) -> float:
        overrides |= {"teacher_digest": "t", "alpha": 0.3} if objective == "rekd" else {}
        trial = task.trial(objective, model, seed=0, **overrides)
        return resources(tune_module.asdict(trial)).required_resources["GPU"]

    assert gpus("vit-tiny") == 0.25
    assert gpus("vit-base") == 0.5
    assert gpus("vit-small") == 1.0  # was not measured
    assert gpus("vit-tiny", "rekd") == 0.25
    assert gpus("vit-tiny", "rekd", augmentation="crop_flip_seeded") == 0.25
    assert gpus("vit-tiny", "rekd", augmentation="crop_flip") == 1.0
    assert gpus("vit-tiny", "rekd", fidelity="authors") == 1.0


def test_more_gpus_than_there_are_is_bad_input():
    one, none = (Cluster(description=f"{count} GPUs", num_cpus=2, num_gpus=count) for count in (1, 0))
    assert tune_module._fixed_shares(None, none).default == 0
    assert tune_module._fixed_shares(None, one).default == 1
    assert tune_module._fixed_shares(0.25, one).default == 0.25
    assert tune_module._fixed_shares("auto", one).default == 1
    for asked, cluster in ((2, one), ("auto", none)):
        with pytest.raises(ValueError, match=f"asks for {asked} GPUs"):
            tune_module._fixed_shares(asked, cluster)


@pytest.mark.slow
def test_without_a_gpu_that_torch_sees_nothing_is_measured():
    """Logical GPUs are not enough: the error of the task that measures is one for the user."""
    import ray

    from rekd.cluster.connect import connect, disconnect

    connect(local=True)
    disconnect()
    ray.init("local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        task = load_task("digits")
        with pytest.raises(ValueError, match=r"torch sees none\. Give a number"):
            measured_shares([task], [task.trial("re", "vit-student", seed=0)])
    finally:
        disconnect()
