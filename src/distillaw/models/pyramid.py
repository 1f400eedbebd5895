"""Mixtral whose layers have numbers of experts of their own: `experts_per_layer` in its configuration.

    import distillaw.models.pyramid; AutoModelForCausalLM.from_pretrained(folder)

Everything but the number of experts is Mixtral's, of transformers 5.23. The file needs nothing else of distillaw and is
written beside the weights, so that `from_pretrained(folder, trust_remote_code=True)` loads it anywhere.
"""

import copy

from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock


class PyramidMixtralConfig(MixtralConfig):
    """Mixtral's, with `experts_per_layer`; `num_local_experts` is the largest of them."""

    model_type = "pyramid_mixtral"
    experts_per_layer: list[int] | None = None


class PyramidMixtralForCausalLM(MixtralForCausalLM):
    """Mixtral with as many experts in each layer as its configuration says."""

    config_class = PyramidMixtralConfig

    def __init__(self, config: PyramidMixtralConfig) -> None:
        super().__init__(config)
        for layer, experts in zip(self.model.layers, config.experts_per_layer or [], strict=False):
            if experts != config.num_local_experts:
                sized = copy.copy(config)
                sized.num_local_experts = experts
                layer.mlp = MixtralSparseMoeBlock(sized)
        self.post_init()


AutoConfig.register(PyramidMixtralConfig.model_type, PyramidMixtralConfig, exist_ok=True)
AutoModelForCausalLM.register(PyramidMixtralConfig, PyramidMixtralForCausalLM, exist_ok=True)
PyramidMixtralConfig.register_for_auto_class()
PyramidMixtralForCausalLM.register_for_auto_class("AutoModelForCausalLM")
