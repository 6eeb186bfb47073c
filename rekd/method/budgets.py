"""How good a rationale model is at every budget: all samples keep equally many features, those most strongly selected.

Two models reach different ratios, and accuracy depends on the ratio. At one budget they are compared at the same.
"""

import numpy as np

from rekd.method.audit import ranks
from rekd.method.evaluate import Predictions
from rekd.method.judge import answers
from rekd.method.models import Predictor
from rekd.method.samples import DeviceSamples
from rekd.store.ledger import BUDGET_COLUMNS, BUDGETS
from rekd.trial import num_selected


def budget_curve(
    predictor: Predictor, samples: DeviceSamples, found: Predictions, *, p_target: float
) -> dict[str, float]:
    """Accuracy where every sample keeps the `num_selected` of its largest selection logits, by the columns of `Outcome`.

    The generator is not asked again: `found` is what its model says of these samples. The predictor is asked once for
    each number of features. `area` is the area under the curve over the ratios that such numbers are, by trapezoids, as a
    share of the width.
    """
    place = ranks(found.selection_difference.cpu().numpy())
    labels, num_features = samples.labels.cpu().numpy(), place.shape[1]
    accuracy = {
        size: float((answers(predictor, samples, place < size) == labels).mean())
        for size in sorted({num_selected(budget, num_features) for budget in (*BUDGETS, p_target)})
    }
    at = {name: accuracy[num_selected(budget, num_features)] for name, budget in BUDGET_COLUMNS.items()}
    curve = sorted({num_selected(budget, num_features) for budget in BUDGETS})
    return at | {
        "test_accuracy_at_p_target": accuracy[num_selected(p_target, num_features)],
        "test_accuracy_area": area(np.array(curve) / num_features, np.array([accuracy[size] for size in curve])),
    }


def area(ratios: np.ndarray, accuracy: np.ndarray) -> float:
    """The mean accuracy between the smallest and the largest ratio, straight between the points.

    >>> area(np.array([0.0, 0.5, 1.0]), np.array([0.5, 1.0, 1.0]))
    0.875
    """
    if len(ratios) == 1:
        return float(accuracy[0])
    return float(np.trapezoid(accuracy, ratios) / (ratios[-1] - ratios[0]))
