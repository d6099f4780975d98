"""`python -m excise`: the command line."""

from excise.cli.main import run

if __name__ == "__main__":
    run()
