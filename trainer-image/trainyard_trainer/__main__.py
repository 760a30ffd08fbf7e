"""`python -m trainyard_trainer` is `trainyard-trainer`."""

from trainyard_trainer.cli import main

main()
