"""Which device a --device option means."""

from distillaw.errors import ConfigError


def torch_device(name: str) -> str:
    """The name torch knows: `auto` is cuda where there is one.

    Raises:
        ConfigError: not cpu, cuda, cuda:N or auto, or cuda where torch sees none.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name not in known:
        raise ConfigError(f"--device {name}: torch here has {', '.join(known)}; give one of these, or auto")
    return name
