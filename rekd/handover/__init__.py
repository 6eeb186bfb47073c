"""What is done with a trained model: many inputs explained, files and pages of them, and the model handed to others."""
