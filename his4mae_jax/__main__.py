"""`python -m his4mae_jax` is the `his4mae` command."""

from his4mae_jax.cli.command import main

if __name__ == "__main__":
    main()
