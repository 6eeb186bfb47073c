"""Random streams: what RE and REKD of one seed share, and whom a run leaves alone."""

from itertools import combinations

import pytest
import tiny
import torch

from rekd.method.streams import Streams, stream_seed

NAMES = ("initialisation", "data order", "student noise", "teacher noise", "dropout", "evaluation noise")


def draws(seed: int, kind: str = "named") -> dict[str, list[float]]:
    """The first numbers of every stream of a run."""
    streams = Streams(seed, kind=kind, device=tiny.CPU)
    with streams.initialising():
        numbers = {"initialisation": torch.rand(8)}
    with streams.training():
        numbers["dropout"] = torch.rand(8)
        for name in ("data_order", "student_noise", "teacher_noise"):
            numbers[name] = torch.rand(8, generator=getattr(streams, name))
    numbers["evaluation"] = torch.rand(8, generator=streams.evaluation_noise())
    return {name: values.tolist() for name, values in numbers.items()}


@pytest.mark.parametrize("kind", ["named", "single", "order_apart"])
def test_a_seed_gives_the_same_streams_again(kind):
    assert draws(3, kind) == draws(3, kind)


def test_streams_differ_from_one_another_and_between_seeds():
    everything = [values for seed in (0, 1, 2026) for values in draws(seed).values()]
    assert all(left != right for left, right in combinations(everything, 2))
    assert len({stream_seed(seed, name) for seed in range(50) for name in NAMES}) == 50 * len(NAMES)


def test_seeds_of_streams_are_the_same_on_every_machine():
    assert stream_seed(2026, "dropout") == 7743486912732479313
    assert all(0 <= stream_seed(seed, name) < 2**63 for seed in range(50) for name in NAMES)


def test_named_streams_do_not_move_one_another():
    first, second = (Streams(3, device=tiny.CPU) for _ in range(2))
    torch.rand(100, generator=first.teacher_noise)
    with first.training():
        torch.rand(100)
    assert torch.equal(torch.rand(8, generator=first.student_noise), torch.rand(8, generator=second.student_noise))
    assert not torch.equal(torch.rand(8, generator=first.teacher_noise), torch.rand(8, generator=second.teacher_noise))


def test_a_single_stream_is_moved_by_whoever_draws():
    first, second = (Streams(3, kind="single", device=tiny.CPU) for _ in range(2))
    assert first.data_order is first.student_noise is first.teacher_noise is None  # None is torch's global stream
    with first.training():
        torch.rand(2)
        moved = torch.rand(6)
    with second.training():
        whole = torch.rand(8)
    assert torch.equal(moved, whole[2:])
    assert not torch.equal(moved, whole[:6])


@pytest.mark.parametrize("kind", ["single", "order_apart"])
def test_a_single_stream_starts_as_the_authors_seed_does(kind):
    streams = Streams(3, kind=kind, device=tiny.CPU)
    with streams.initialising():
        first = torch.rand(4)
    with streams.training():
        then = torch.rand(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        assert torch.equal(torch.cat((first, then)), torch.cat((torch.rand(4), torch.rand(4))))


def test_streams_go_on_between_epochs_where_they_stopped():
    streams, other = (Streams(3, device=tiny.CPU) for _ in range(2))
    with streams.training():
        first = torch.rand(4)
    torch.rand(100)  # the caller's own
    with streams.training():
        second = torch.rand(4)
    with other.training():
        assert torch.equal(torch.rand(4), first)
        assert torch.equal(torch.rand(4), second)


@pytest.mark.parametrize("kind", ["named", "single", "order_apart"])
def test_a_state_puts_every_stream_back(kind):
    streams = Streams(3, kind=kind, device=tiny.CPU)

    def some() -> list[float]:
        with streams.training():
            numbers = [torch.rand(2)]
            numbers += [
                torch.rand(2, generator=getattr(streams, f"{name}")) for name in ("data_order", "student_noise")
            ]
            return torch.cat([*numbers, torch.rand(2, generator=streams.teacher_noise)]).tolist()

    some()
    state = {name: value.clone() for name, value in streams.state().items()}
    expected = some()
    assert some() != expected
    streams.load_state(state)
    assert some() == expected


def test_noise_of_an_evaluation_is_the_same_every_time():
    streams = Streams(3, device=tiny.CPU)
    assert torch.equal(*(torch.rand(8, generator=streams.evaluation_noise()) for _ in range(2)))
    other = Streams(4, device=tiny.CPU)
    assert not torch.equal(*(torch.rand(8, generator=each.evaluation_noise()) for each in (streams, other)))


@pytest.mark.usefixtures("global_stream_is_untouched")
@pytest.mark.parametrize("kind", ["named", "single", "order_apart"])
def test_the_callers_stream_is_untouched_by_streams_even_by_an_error(kind):
    streams = Streams(3, kind=kind, device=tiny.CPU)
    for context in (streams.initialising, streams.training):
        with pytest.raises(RuntimeError, match="size"), context():
            _ = torch.rand(10) + torch.rand(9)
    streams.load_state(streams.state())


# --- In a run -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("global_stream_is_untouched")
@pytest.mark.parametrize("kind", ["named", "single", "order_apart"])
def test_a_run_leaves_the_callers_stream_alone(kind):
    tiny.run(tiny.trial(random_streams=kind, epochs=1))


def test_re_and_rekd_of_one_seed_start_alike(image_teacher):
    """Initialisation, data order and student noise are shared: with alpha = 1 the two are one run."""
    re = tiny.run(tiny.trial(epochs=2))
    rekd = tiny.run(tiny.trial("rekd", alpha=1.0, epochs=2), teacher=image_teacher.for_training())
    assert tiny.same_tensors(re.weights, rekd.weights)
    assert re.records[0]["train_prediction_loss"] == rekd.records[0]["train_prediction_loss"]

    other_seed = tiny.run(tiny.trial(epochs=2, seed=4))
    assert not tiny.same_tensors(re.weights, other_seed.weights)
    taught = tiny.run(tiny.trial("rekd", alpha=0.3, epochs=2), teacher=image_teacher.for_training())
    assert not tiny.same_tensors(re.weights, taught.weights)


def test_with_a_single_stream_re_and_rekd_part_ways(image_teacher):
    re = tiny.run(tiny.trial(epochs=2, random_streams="single"))
    trial = tiny.trial("rekd", alpha=1.0, epochs=2, random_streams="single")
    assert not tiny.same_tensors(re.weights, tiny.run(trial, teacher=image_teacher.for_training()).weights)
