"""The policy that acts with memory: its inputs (numpy), its network (torch), retrieval while acting, checkpoints."""
