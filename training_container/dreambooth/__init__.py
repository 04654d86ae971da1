"""DreamBooth fine-tuning of Stable Diffusion: plain functions on tensors and pictures; nothing here knows SageMaker."""
