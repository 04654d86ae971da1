"""Stable Diffusion 1.x and 2.x: its networks, their files, LoRA layers and samplers. Light to import.

Parameters are named as diffusers and transformers name them, so files go both ways unchanged.
"""
