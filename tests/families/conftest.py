from tests.torch_fixtures import one_thread, seed
