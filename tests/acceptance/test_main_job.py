from fleet import Fleet

def test_x(shared: Fleet) -> None:
    import time
    t=time.monotonic()
    i = shared.enqueue("work", "seconds=0.2")
    print(time.monotonic()-t)
    m = shared.witness.wait_for("end", i)
    print(m, time.monotonic()-t)
    shared.cli("wait", i)
    print(time.monotonic()-t)
    import json
    print(json.dumps(shared.task(i), indent=1))
