"""How well the toy base model draws, and how well our training program teaches it new toys.

`python -m benchmarks.toyworld` measures, prints a table and writes benchmarks/toyworld.json. Every unit of work is
recorded: an interrupted measurement goes on where it was, and --report-only prints what is known so far.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from benchmarks.machine import machine
from benchmarks.plan import METHODS, Plan
from benchmarks.progress import say
from benchmarks.records import Record, Records, model_key
from benchmarks.report import table
from benchmarks.results import Results, collect
from contracts.artifact import GENERATION_DEFAULTS, TRAINING_DEFAULTS, BaseModelManifest
from contracts.generation import GenerationDefaults, Sampling, Scheduler
from contracts.storage import MANIFEST
from contracts.training import TrainingDefaults
from toyworld.subjects import SUBJECTS

BASE_MODEL = Path("toyworld/base_model")
OUT = Path("benchmarks/toyworld.json")
RECORDS = Path("build/bench-toyworld")
MACHINE = "machine"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    manifest = BaseModelManifest.model_validate_json((options.base_model / MANIFEST).read_bytes())
    records = Records(options.records / model_key(manifest))
    plan = plan_of(options, *recommended(options.base_model, manifest))
    if not options.report_only:
        work(options, records, plan)
    if options.grids is not None:
        return
    results = collect(records, plan)
    say(table(results))
    if not options.report_only:
        options.out.write_text(json.dumps(document(manifest, plan, results, records), indent=1) + "\n", "utf-8")
        say(f"written: {options.out}")


def work(options: argparse.Namespace, records: Records, plan: Plan) -> None:
    # Here, because it takes seconds and the report needs none of it.
    from benchmarks.grids import write_grids
    from benchmarks.session import Session

    session = Session(options.base_model, records, plan)
    if options.grids is not None:
        write_grids(options.grids, session, records, plan)
        return
    records.write(MACHINE, machine())
    if options.only != "dreambooth":
        session.measure_base()
    if options.only != "base":
        session.measure_trainings()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toyworld", description=__doc__)
    parser.add_argument("--base-model", type=Path, default=BASE_MODEL)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--records", type=Path, default=RECORDS, help="one file a unit of work, kept between calls")
    parser.add_argument("--subjects", type=_some_of(tuple(SUBJECTS)), default=tuple(SUBJECTS), help="a,b,...")
    parser.add_argument("--methods", type=_some_of(METHODS), default=METHODS, help="lora,full")
    parser.add_argument("--seeds", type=_numbers, default=(0, 1, 2), help="the first also with the prior")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--pictures-a-prompt", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, help="default: as the base model recommends")
    parser.add_argument("--scheduler", choices=get_args(Scheduler), help="the same")
    parser.add_argument("--hyperparameters", type=_methods_of, default={}, help='\'{"lora": {"max_steps": 200}}\'')
    parser.add_argument("--only", choices=("base", "dreambooth"), help="one half of the work")
    parser.add_argument("--report-only", action="store_true", help="print what is known so far; do and write nothing")
    parser.add_argument("--grids", type=Path, metavar="DIR", help="write the documents' pictures and nothing else")
    return parser.parse_args(arguments)


def _some_of(names: tuple[str, ...]) -> Any:
    def chosen(text: str) -> tuple[str, ...]:
        unknown = set(text.split(",")) - set(names)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(names)}")
        return tuple(name for name in names if name in text.split(","))

    return chosen


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _methods_of(text: str) -> dict[str, dict[str, Any]]:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(given, dict) or not set(given) <= set(METHODS):
        raise argparse.ArgumentTypeError(f"an object with {' and '.join(METHODS)} is wanted")
    return given


def recommended(base_model: Path, manifest: BaseModelManifest) -> tuple[TrainingDefaults, GenerationDefaults]:
    """The base model's files, which may be newer than its manifest, or else what the manifest holds."""
    training, generation = base_model / TRAINING_DEFAULTS, base_model / GENERATION_DEFAULTS
    return (
        TrainingDefaults.model_validate_json(training.read_bytes())
        if training.is_file()
        else manifest.training_defaults,
        GenerationDefaults.model_validate_json(generation.read_bytes())
        if generation.is_file()
        else manifest.generation_defaults,
    )


def plan_of(options: argparse.Namespace, training: TrainingDefaults, generation: GenerationDefaults) -> Plan:
    """What an option says wins over what the base model recommends."""
    defaults = training.model_dump()
    recommended_sampling = Sampling(**generation.model_dump(exclude_none=True))
    named = {"num_inference_steps": options.steps, "guidance_scale": options.guidance, "scheduler": options.scheduler}
    return Plan(
        subjects=options.subjects,
        methods=options.methods,
        seeds=options.seeds,
        prompts=options.prompts,
        pictures_a_prompt=options.pictures_a_prompt,
        sampling=replace(recommended_sampling, **{name: value for name, value in named.items() if value is not None}),
        hyperparameters={method: defaults[method] | options.hyperparameters.get(method, {}) for method in METHODS},
    )


def document(manifest: BaseModelManifest, plan: Plan, results: Results, records: Records) -> Record:
    return {
        "machine": records.read(MACHINE),
        "base_model": {"id": manifest.id, "checksum": manifest.checksum},
        "settings": asdict(plan),
        **results.as_record(),
    }


if __name__ == "__main__":
    main()
