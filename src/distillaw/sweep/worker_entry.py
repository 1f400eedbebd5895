"""The door through which Slurm and Ray start a worker: importing it imports nothing heavy."""


def serve(folder: str, name: str, address: str, threads: int) -> int:
    """`sweep.worker.serve`, imported where the worker runs; in a Ray cluster it says on which node that is."""
    from distillaw.sweep import worker

    return worker.serve(folder, name, address, threads, _ray_node())


def _ray_node() -> str:
    import sys

    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else ""
