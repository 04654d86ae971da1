"""The training program: one SageMaker training job turns photos and a base model into a model version."""
