"""A program: train one step as `latentdebias train` does, and print as JSON the times at which each phase had ended.

Its argument is the path of a config. The clock is that of the whole machine, for another process began to count.
"""

import time

moments = [time.time()]


def main() -> None:
    import json
    import sys
    from contextlib import redirect_stdout

    import torch
    from torch import nn

    from latentdebias.config import load_config
    from latentdebias.prepare import prepare
    from latentdebias.run import Run
    from latentdebias.training.engine import start_distributed, stop_distributed
    from latentdebias.training.trainer import TrainState

    class TimedRun(Run):
        def _trained_backbone(self) -> nn.Module:
            backbone = super()._trained_backbone()
            moments.append(time.time())
            return backbone

    moments.append(time.time())
    with redirect_stdout(sys.stderr):
        config = load_config(sys.argv[1])
        moments.append(time.time())
        prepared = prepare(config)
        moments.append(time.time())
        start_distributed(config.training.hang_timeout)
        moments.append(time.time())
        run = TimedRun(prepared)
        moments.append(time.time())
        with run.training(TrainState(), config.training.steps) as train:
            train(1)
            if run.engine.device.type == "cuda":
                torch.cuda.synchronize()
        moments.append(time.time())
        stop_distributed()
    print(json.dumps(moments))


if __name__ == "__main__":
    main()
