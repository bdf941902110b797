"""`python -m launch.cli`: the `hnm` command, for torchrun and srun."""

from launch.cli.main import main

if __name__ == "__main__":
    main()
