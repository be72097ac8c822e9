"""What is signed so far, as a process remembers it."""

from counterseal_audit.checkpoints.heads import SignedHead, SignedHeads


def test_the_latest_signed_head_of_each_log_is_remembered_and_never_an_older_one() -> None:
    heads = SignedHeads()
    assert heads.get(1) is None
    heads.see(1, SignedHead(5, 100))
    heads.see(2, SignedHead(9, 100))
    assert (heads.get(1), heads.get(2)) == (SignedHead(5, 100), SignedHead(9, 100))
    heads.see(1, SignedHead(4, 200))
    assert heads.get(1) == SignedHead(5, 100)
    heads.see(1, SignedHead(5, 300))
    assert heads.get(1) == SignedHead(5, 300), "signed again: it is alive"
    heads.see(1, SignedHead(6, 400))
    assert heads.get(1) == SignedHead(6, 400)
