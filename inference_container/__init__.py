"""The serving container: draws pictures with a base model and the subjects trained on it."""
