"""How fast memories are found again: the project beside its peers, on the same data, in one run.

Run as ``python -m benchmarks.retrieval`` (10,000 and 100,000 memories, fifteen minutes), with ``--quick`` (10,000, two
minutes), or with ``--large`` (1,944,000, the project, bare search and numpy alone). Peers come with
``pip install -e '.[bench]'``; one that is not installed is named in the result. Servers run in a temporary home.
"""
