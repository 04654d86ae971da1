"""Makes the base model from nothing: `python -m toyworld.pretraining.run`; see `make toyworld`.

Draws the pictures, trains the autoencoder, CLIP, the scorers and the denoiser, and writes the finished model. Each
stage goes on from its last checkpoint, so that the command may be stopped and started at will.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from toyworld.pictures import keep, odd_album, ordinary_album
from toyworld.pretraining import autoencoder, denoiser, language, vision
from toyworld.pretraining.export import Parts, write_model
from toyworld.pretraining.fit import Recipe
from toyworld.tokenizer import build_tokenizer

WORK = Path("build/toyworld")
OUT = Path("toyworld/base_model")
STAGES = ("autoencoder", "clip", "denoiser", "eyes", "classifier", "instance")  # folders under the work folder
ORDINARY, ODD, HELD_OUT, ODD_HELD_OUT = 40_000, 18_000, 3_000, 3_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toyworld.pretraining.run", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="pictures, checkpoints and logs")
    parser.add_argument("--out", type=Path, default=OUT, help="the finished model")
    parser.add_argument("--pictures", type=float, default=1.0, help="part of the usual number of pictures")
    parser.add_argument("--steps", type=float, default=1.0, help="part of the usual number of steps")
    options = parser.parse_args()
    pretrain(options.work, options.out, options.pictures, options.steps)


def pretrain(work: Path, out: Path, picture_part: float, step_part: float) -> None:
    def count(usual: int) -> int:
        return max(60, round(usual * picture_part))

    def shortened(recipe: Recipe) -> Recipe:
        return replace(recipe, steps=max(2, round(recipe.steps * step_part)))

    albums = work / "pictures"
    ordinary = keep(albums / "world", lambda: ordinary_album(1, count(ORDINARY)))
    odd = keep(albums / "odd", lambda: odd_album(2, count(ODD)))
    held_out = keep(albums / "held-out", lambda: ordinary_album(3, count(HELD_OUT), held_out=True))
    odd_held_out = keep(albums / "odd-held-out", lambda: odd_album(4, count(ODD_HELD_OUT)))
    tokenizer = build_tokenizer()
    vae = autoencoder.train_autoencoder(work / "autoencoder", [ordinary, odd], held_out, shortened(autoencoder.RECIPE))
    clip = language.train_clip(work / "clip", tokenizer, ordinary, held_out, shortened(language.RECIPE))
    text_encoder = language.text_encoder_of(clip)
    unet = denoiser.train_denoiser(
        work / "denoiser", vae, text_encoder, tokenizer, ordinary, held_out, shortened(denoiser.RECIPE)
    )
    language.train_eyes(work / "eyes", clip, tokenizer, ordinary, held_out, shortened(language.EYES_RECIPE))
    classifier = vision.train_classifier(
        work / "classifier", ordinary, odd, held_out, shortened(vision.CLASSIFIER_RECIPE)
    )
    instance = vision.train_instance_embedding(work / "instance", odd, odd_held_out, shortened(vision.INSTANCE_RECIPE))
    logs = {stage: work / stage / "log.jsonl" for stage in STAGES}
    write_model(out, Parts(tokenizer, text_encoder, vae, unet, clip, classifier, instance), logs)


if __name__ == "__main__":
    main()
