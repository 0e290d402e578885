"""`python -m rlkit recipe.yaml key=value`, `accelerate launch -m rlkit recipe.yaml`: run any recipe, read as data."""

import sys

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m rlkit recipe.yaml [key=value ...]    (the other verbs: rlkit --help)")
        sys.exit(0 if len(sys.argv) > 1 else 2)
    from rlkit.run import main

    main(sys.argv[1], sys.argv[2:])
