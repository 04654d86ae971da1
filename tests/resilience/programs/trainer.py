"""Takes the place of training_container/__main__.py: the /opt/ml tree in, a whole artifact out, and nothing is learned.

A photo's caption may hold orders as JSON, which say what befalls the job; see `Orders` in tests/resilience/conftest.py.
Only the standard library: it starts in some hundredths of a second.
"""

import hashlib
import json
import os
import pathlib
import signal
import sys
import time

BASE = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
DATA = BASE / "input/data"
CHECKPOINT = BASE / "checkpoints/step.txt"

assert sys.argv[1:] == ["train"]
orders = {}
for caption in (DATA / "training").glob("*.txt"):
    orders |= json.loads(caption.read_text())
settings = json.loads((BASE / "input/config/hyperparameters.json").read_text())
info = json.loads((DATA / "training/dataset_info.json").read_text())
base_model = json.loads((DATA / "model/manifest.json").read_text())

if orders.get("real"):
    if "disk_bytes" in orders:  # what is written to the model's folder meets the end of a disk
        model = str(BASE / "model")
        mount = f'mount -t tmpfs -o size={orders["disk_bytes"]} tmpfs "$1" && shift && exec "$@"'
        program = [sys.executable, "-m", "training_container.real", "train"]
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", model, *program])
    os.execv(sys.executable, [sys.executable, "-m", "training_container.real", "train"])


def on_term(number: int, frame: object) -> None:
    print("SIGTERM", flush=True)
    sys.exit(1)


signal.signal(signal.SIGTERM, on_term)
first = int(CHECKPOINT.read_text()) if CHECKPOINT.exists() else 0
print(f"starts at step {first}", flush=True)
if int(settings["memory_tier"]) < orders.get("needs_memory_tier", 0):
    (BASE / "output/failure").write_text("out_of_memory: The training needs more memory. Cure: Use less.")
    sys.exit(1)
for step in range(first, orders.get("steps", 1)):
    time.sleep(orders.get("step_seconds", 0))
    partial = CHECKPOINT.with_name(".step.txt")
    partial.write_text(str(step + 1))
    partial.replace(CHECKPOINT)

weights = b"weights"
(BASE / "model").mkdir(exist_ok=True)
(BASE / "model/weights").write_bytes(weights)
artifact = {
    "method": "lora",
    "base_model": base_model["id"],
    "base_model_checksum": base_model["checksum"],
    "instance_prompt": info["instance_prompt"],
    "class_prompt": info["class_prompt"],
    "resolution": base_model["resolution"],
    "hyperparameters": {},
    "training": {
        "steps": orders.get("steps", 1),
        "seconds": 0.1,
        "first_loss": 1.0,
        "last_loss": 0.5,
        "held_out_before": 1.0,
        "held_out_after": 0.5,
        "samples": [{"path": "samples/0.png", "finite": True, "contrast": 0.5}],
    },
    "versions": {"trainer": "of tests/resilience", "first step": str(first)},
    "files": [{"path": "weights", "size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}],
}
(BASE / "model/artifact.json").write_text(json.dumps(artifact))
