"""One training job, from top to bottom: settings, data, model, loop, save."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import torch

from contracts.artifact import BaseModelManifest, TrainingSummary
from contracts.errors import InvalidPreviousModel, TrainingStopped
from contracts.progress import TrainingPhase
from contracts.storage import PREVIOUS_MODEL
from contracts.training import Hyperparameters, as_before, settle_hyperparameters
from diffusion.verification import begin_verification
from training_container.artifact import empty_directory, save_samples, save_weights, write_artifact
from training_container.base_model import BaseModel, load_base_model
from training_container.checkpoints import fingerprint_of, restore_newest, save_checkpoint
from training_container.class_pictures import prior_pictures
from training_container.dreambooth.average import WeightAverage
from training_container.dreambooth.batches import TrainingSet, encode_always, encode_once
from training_container.dreambooth.dataset import Picture
from training_container.dreambooth.evaluation import MOST_PHOTOS, held_out_loss
from training_container.dreambooth.inversion import ROWS, learnable_rows, own_word_ids
from training_container.dreambooth.latents import encode_moments
from training_container.dreambooth.loop import Learner, Reading, RunState, run_loop
from training_container.dreambooth.optimizer import build_optimizer, build_scaler
from training_container.dreambooth.precision import Precision, release, visible_gpu
from training_container.dreambooth.sampling import Drawn
from training_container.dreambooth.schedule import NoiseSchedule
from training_container.dreambooth.team import ALONE, Team
from training_container.dreambooth.trainable import Trainable
from training_container.footprint import FootprintOf
from training_container.heap import keep_freed_memory
from training_container.memory import plan_memory
from training_container.model_card import PictureCount
from training_container.photos import read_photos
from training_container.platform import Platform
from training_container.previous import PreviousModel, go_on_from, read_previous
from training_container.settings import TrainingSettings, read_settings, require_base_model, settle_steps
from training_container.studio import Studio, draw_samples, furnish, refresh_prompts

logger = logging.getLogger("training")

INVERSION = "textual_inversion"  # the folder of its checkpoints


def train(platform: Platform, team: Team = ALONE, verification: Future[BaseModelManifest] | None = None) -> None:
    """Raises a DreamdropError, or whatever the libraries raise; the caller reports it.

    The base model's verification may have begun before.

    Every process of the team does the same, but that each generates its share of the class pictures and sees its share
    of every batch, and that the first alone reports and saves.
    """
    platform.reports = team.leads
    asked = read_settings(platform.dataset, platform.hyperparameters())
    manifest = (verification or begin_verification(platform.base_model)).result()
    require_base_model(asked.base_model, manifest.id)
    previous = read_previous(platform.channel(PREVIOUS_MODEL), asked.continue_from, manifest)
    settled = settle(asked, manifest, previous)
    photos = read_photos(platform, settled)
    total_steps = settle_steps(settled, len(photos.instance), team.size)
    platform.report_progress("loading", 0, total_steps)
    base = load_base_model(platform.base_model, manifest)
    settings, precision = fit_into_memory(settled, base, team, goes_on=previous is not None)
    studio = furnish(base, settings, photos, precision)

    prior = prior_pictures(platform, studio, settings, manifest, photos, total_steps, team)
    words = start_from(previous, base, studio) if previous else []  # not before: class pictures are the base model's
    learner = prepare_learner(platform, base, studio, settings, photos.instance, prior, total_steps, team)
    fingerprint = fingerprint_of(
        settings.hyperparameters.model_dump(exclude={"save_steps"}),
        manifest.checksum,
        [(picture.sha256, picture.prompt) for picture in (*photos.instance, *prior)],
        team.size,
        previous.checksum if previous else None,
    )
    score = partial(score_photos, learner)
    held_out_before = score()
    if settings.hyperparameters.textual_inversion_steps:
        words += learn_words(platform, base, learner, settings, fingerprint)
    state = restore_newest(platform.checkpoints, fingerprint, learner) or RunState()
    if state.step == 0:
        state.held_out_before = held_out_before
    else:
        logger.info("resuming at step %d", state.step)
    run_to_the_end(platform, learner, state, total_steps, fingerprint, platform.checkpoints, "training")
    if not team.leads:
        return
    held_out_after = score()

    platform.report_progress("sampling", total_steps, total_steps)
    samples = draw_samples(studio, [subject.instance_prompt for subject in settings.subjects])
    platform.report_progress("saving", total_steps, total_steps)
    pictures = PictureCount(len(photos.instance), len({picture.sha256 for picture in prior}))
    save_model(
        platform,
        manifest,
        studio.model,
        settings,
        state,
        held_out_after,
        samples,
        pictures,
        list(dict.fromkeys(words)),
        previous.directory if previous else platform.base_model,
    )
    platform.report_progress("done", total_steps, total_steps, loss=mean_of_tenth(state.losses, last=True))


def settle(
    asked: TrainingSettings, manifest: BaseModelManifest, previous: PreviousModel | None = None
) -> TrainingSettings:
    """What was left open is filled in, but for what the device decides. Raises InvalidPreviousModel."""
    hyperparameters = asked.hyperparameters
    if previous:
        try:
            hyperparameters = as_before(hyperparameters, previous.artifact.hyperparameters)
        except ValueError as error:
            raise InvalidPreviousModel(f"{error}.") from error
    wanted = settle_hyperparameters(
        hyperparameters,
        manifest.training_defaults,
        manifest.resolution,
        has_classes=all(subject.class_prompt for subject in asked.subjects),
    )
    return dataclasses.replace(asked, hyperparameters=wanted)


def fit_into_memory(
    settings: TrainingSettings, base: BaseModel, team: Team = ALONE, *, goes_on: bool = False
) -> tuple[TrainingSettings, Precision]:
    """Leaves nothing to guess: what the device and its memory decide is written down, for the log and the artifact."""
    gpu = visible_gpu()
    precision = Precision.choose(settings.hyperparameters.mixed_precision)
    if gpu is None:
        keep_freed_memory()
    wanted = settings.hyperparameters.model_copy(update={"mixed_precision": precision.mixed})
    plan = plan_memory(
        wanted,
        base.manifest.training_defaults,
        settings.memory_tier,
        gpu,
        FootprintOf(base, precision),
        goes_on=goes_on,
        processes=team.size,
    )
    fitted = plan.hyperparameters
    logger.info("memory tier %d: %s", settings.memory_tier, plan.describe(gpu))
    logger.info("%s: %s", precision.device, fitted.to_sagemaker())
    settled = fitted.model_copy(update={"learning_rate": fitted.effective_learning_rate})
    return dataclasses.replace(settings, hyperparameters=settled), precision


def start_from(previous: PreviousModel, base: BaseModel, studio: Studio) -> list[int]:
    """Returns the tokens of the words that the earlier model has learned."""
    studio.model.precision.move(base.text_encoder)
    words = go_on_from(previous, studio.model)
    refresh_prompts(base, studio.prompts, previous.artifact.hyperparameters.train_text_encoder)
    return words


def learn_words(
    platform: Platform, base: BaseModel, learner: Learner, settings: TrainingSettings, fingerprint: str
) -> list[int]:
    """Textual inversion, with checkpoints of its own. Returns the tokens of the words that were learned."""
    wanted = settings.hyperparameters
    ids = own_word_ids(
        base.tokenizer, [(subject.instance_prompt, subject.class_prompt or "") for subject in settings.subjects]
    )
    learner.model.precision.move(base.text_encoder)
    learner.prompts.thaw()
    with learnable_rows(base.text_encoder, ids, learner.model.parameters.values()) as rows:
        alone = wanted.model_copy(
            update={
                "learning_rate": wanted.textual_inversion_learning_rate,
                "adam_weight_decay": 0.0,
                "use_8bit_adam": False,
            }
        )
        inverting = dataclasses.replace(
            learner,
            model=dataclasses.replace(learner.model, parameters={ROWS: rows}),
            optimizer=build_optimizer([rows], alone, learner.model.precision),
            scaler=build_scaler(learner.model.precision),
            settings=alone,
            average=None,
        )
        folder = platform.checkpoints / INVERSION
        state = restore_newest(folder, fingerprint, inverting) or RunState()
        run_to_the_end(platform, inverting, state, wanted.textual_inversion_steps, fingerprint, folder, "inverting")
        if learner.team.leads:  # a restart need not learn them again
            save_checkpoint(folder, fingerprint, inverting, state)
    refresh_prompts(base, learner.prompts, wanted.train_text_encoder)
    if learner.average:
        learner.average.restart()
    return ids


def prepare_learner(
    platform: Platform,
    base: BaseModel,
    studio: Studio,
    settings: TrainingSettings,
    instance: list[Picture],
    prior: list[Picture],
    total_steps: int,
    team: Team,
) -> Learner:
    platform.raise_if_stopped()
    platform.report_progress("encoding", 0, total_steps)
    precision = studio.model.precision
    wanted = settings.hyperparameters
    weights = studio.model.parameters
    return Learner(
        model=studio.model,
        prompts=studio.prompts,
        data=encode_all(base, studio, wanted, instance, prior),
        schedule=NoiseSchedule.from_scheduler_config(base.scheduler_config).to(precision.device),
        optimizer=build_optimizer(weights.values(), wanted, precision),
        scaler=build_scaler(precision),
        settings=wanted,
        scaling_factor=base.vae.config.scaling_factor,
        average=WeightAverage(weights, wanted.ema_decay) if wanted.use_ema else None,
        team=team,
    )


def encode_all(
    base: BaseModel, studio: Studio, wanted: Hyperparameters, instance: list[Picture], prior: list[Picture]
) -> TrainingSet:
    """Class pictures have one crop each, so they are always encoded once."""
    encode = partial(encode_moments, base.vae, precision=studio.model.precision)
    encode_photo = encode_always if wanted.not_cache_latents else encode_once
    data = TrainingSet(
        [encode_photo(picture, encode, studio.prompts.row(picture.prompt)) for picture in instance],
        [encode_once(picture, encode, studio.prompts.row(picture.prompt)) for picture in prior],
    )
    if not wanted.not_cache_latents:
        release(base.vae)
    return data


def score_photos(learner: Learner) -> float:
    """The held-out loss of the photos as the model stands."""
    learner.model.train_mode(False)
    photos = learner.data.instance[:MOST_PHOTOS]
    with torch.no_grad():
        return held_out_loss(
            learner.model.predict,
            learner.schedule,
            [photo.moments(0) for photo in photos],
            learner.prompts.embeddings([photo.prompt_row for photo in photos]),
            scaling_factor=learner.scaling_factor,
        )


def run_to_the_end(
    platform: Platform,
    learner: Learner,
    state: RunState,
    total_steps: int,
    fingerprint: str,
    folder: Path,
    phase: TrainingPhase,
) -> None:
    """Raises TrainingStopped after the checkpoint if SIGTERM came."""
    platform.report_progress(phase, state.step, total_steps)
    team = learner.team

    def save() -> None:
        if team.leads:
            save_checkpoint(folder, fingerprint, learner, state)

    finished = run_loop(
        learner,
        state,
        total_steps,
        stop_requested=lambda: team.any(platform.stop_requested),
        save=save,
        report=partial(tell, platform, total_steps, phase) if team.leads else lambda _: None,
    )
    if state.skipped:
        logger.info("%d of %d steps changed no weight: a gradient was not finite", len(state.skipped), state.step)
    if not finished:
        raise TrainingStopped(f"The training job was stopped at step {state.step} of {total_steps}.")
    if learner.average:
        learner.average.take_over()


def tell(platform: Platform, total_steps: int, phase: TrainingPhase, reading: Reading) -> None:
    """One line for people and for SageMaker's metric definitions; fixed point, so that every regex reads it whole."""
    loss = reading.loss if math.isfinite(reading.loss) else None
    if loss is not None:
        sys.stdout.write(
            f"step {reading.step}/{total_steps} train_avg_loss={loss:.6f} lr={reading.learning_rate:.9f} "
            f"seconds_per_step={reading.seconds_per_step:.3f}\n"
        )
        sys.stdout.flush()
    platform.report_progress(phase, reading.step, total_steps, loss=loss, seconds_per_step=reading.seconds_per_step)


def save_model(
    platform: Platform,
    manifest: BaseModelManifest,
    model: Trainable,
    settings: TrainingSettings,
    state: RunState,
    held_out_after: float,
    samples: list[Drawn],
    pictures: PictureCount,
    words: list[int],
    before: Path,
) -> None:
    empty_directory(platform.model)
    save_weights(platform.model, platform.base_model, manifest, model, settings.hyperparameters, words, before)
    summary = TrainingSummary(
        steps=state.step,
        seconds=round(state.seconds, 3),
        first_loss=mean_of_tenth(state.losses, last=False),
        last_loss=mean_of_tenth(state.losses, last=True),
        held_out_before=state.held_out_before,
        held_out_after=held_out_after,
        samples=save_samples(platform.model, samples),
    )
    write_artifact(platform.model, manifest, settings, summary, pictures, words)


def mean_of_tenth(losses: list[float | None], *, last: bool) -> float:
    """Mean of the first or last tenth of the steps, at least one; non-finite losses are left out."""
    count = max(1, len(losses) // 10)
    part = [loss for loss in (losses[-count:] if last else losses[:count]) if loss is not None]
    return sum(part) / len(part) if part else math.nan
