"""The hook that writes the log."""

from latentdebias.errors import UserError
from latentdebias.training.engine import Engine
from latentdebias.training.monitor.loss_meter import LossMeter
from latentdebias.training.monitor.run_log import RunLog
from latentdebias.training.monitor.speed import Speedometer
from latentdebias.training.trainer import TrainingOptions, TrainState


class Logging:
    """Every `log_every` steps logs loss, learning rate, gradient norm, speed, and loss by bin of t since the last line.

    Raises `UserError` where the last `max_skipped` updates were all skipped, their gradients not being finite.
    """

    def __init__(
        self,
        log: RunLog | None,
        meter: LossMeter,
        engine: Engine,
        options: TrainingOptions,
        speed: Speedometer,
    ) -> None:
        self.log, self.meter, self.engine, self.options = log, meter, engine, options
        self.speed = speed

    def __call__(self, state: TrainState) -> None:
        if self.log is not None:
            self.log.advance()
        if state.step % self.options.log_every and state.step != self.options.steps:
            return
        losses = self.meter.report()
        skipped, in_a_row = self.engine.skipped()
        if in_a_row >= self.options.max_skipped:
            raise UserError(
                f"The gradient was not finite in the last {in_a_row} updates up to step {state.step}, which were all "
                f"skipped (training.max_skipped is {self.options.max_skipped}). Lower optimizer.lr, set "
                f"training.grad_clip, or cap the weighting with max_weight; a rerun resumes from the last checkpoint."
            )
        if self.log is not None:
            record = {
                "loss": losses.loss,
                "lr": self.engine.lr(),
                "grad_norm": self.engine.grad_norm(),
                "skipped_updates": skipped,
                **self.speed.read(state.step),
                "loss_by_t": losses.loss_by_t,
                "x0_loss_by_t": losses.x0_loss_by_t,
                "x0_loss_error_by_t": losses.x0_loss_error_by_t,
            }
            if any(u is not None for u in losses.uncertainty_by_t):
                record["uncertainty_by_t"] = losses.uncertainty_by_t
            self.log.write(state.step, record)
            self.log.show(record)
