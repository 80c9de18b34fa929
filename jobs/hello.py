"""Greet somebody: the smallest job there is. A function with typed arguments; what it returns is the result."""


def main(name: str = "world", times: int = 1) -> dict:
    for _ in range(times):
        print(f"hello {name}")
    return {"greeted": name, "times": times}
