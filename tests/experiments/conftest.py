from tests.parallel.conftest import ranks

__all__ = ["ranks"]
