"""`samuel bench orchestration`: what Prefect costs, and what its UI shows, of a run over a full song list.

The flow, its tasks, the entries on disk and the dataset are the real ones. The stages are stand-ins, which
only sleep and write (`stand_ins`).
"""
