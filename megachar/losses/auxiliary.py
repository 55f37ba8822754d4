"""Weights of the auxiliary losses as a pure function of the step (Al-Rfou et al. 2019, section 3)."""

from megachar.config.sections.auxiliary import AuxiliaryConfig


def silent_from(layer: int, num_layers: int, total_steps: int, interval_steps: float | None) -> float:
    """First step (counted from 0, as a real number) at which layer `layer` of 1..num_layers-1 adds no loss.

    Layer l stops after l / (2 n) of training: the lower ones first, all by half-time.
    """
    if interval_steps is not None:
        return layer * interval_steps
    return layer * total_steps / (2 * num_layers)


def layer_weights(config: AuxiliaryConfig, num_layers: int, total_steps: int, step: int) -> tuple[float, ...]:
    """Weight of every layer's loss at `step` (counted from 0); the last layer's is always 1.

    A weight of 0 means silent: the layer's classifiers need not be computed at all.
    """
    weights = [0.0] * (num_layers - 1)
    if config.intermediate_layers:
        for layer in range(1, num_layers):
            end = silent_from(layer, num_layers, total_steps, config.interval_steps)
            if step < end:
                weights[layer - 1] = 1.0 if config.decay == "drop" else 1.0 - step / end
    if config.reduction == "mean":
        active = sum(weight > 0 for weight in weights)
        weights = [weight / max(active, 1) for weight in weights]
    return (*weights, 1.0)


def target_weights(config: AuxiliaryConfig) -> tuple[float, ...]:
    """Weight of each target's loss within its layer: 1 for the next character, less for those after it."""
    return (1.0, *[config.extra_target_weight] * (config.num_targets - 1))
