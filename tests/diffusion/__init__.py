"""Our networks, tokenizer and samplers, held against diffusers and transformers."""
