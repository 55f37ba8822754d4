from tests.torch_fixtures import one_thread, seed

__all__ = ["one_thread", "seed"]
