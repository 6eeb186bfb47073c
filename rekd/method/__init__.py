"""The method of the paper: equations, models, teacher, losses, the loop, evaluation and explanations. It knows no Ray."""
