"""Files with slow tests start first: at the end a worker would run one of them while the others have nothing left."""


def pytest_collection_modifyitems(items):
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
