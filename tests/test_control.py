from __future__ import annotations

import threading

from trainer.control import Control, Request


def test_stop_sharpens_stop_and_save_but_not_the_other_way_round():
    control = Control()
    control.stop_and_save()
    assert control.checkpoint() is Request.STOP_AND_SAVE
    control.stop()
    control.stop_and_save()
    assert control.checkpoint() is Request.STOP


def test_an_interrupt_is_between_the_two():
    control = Control()
    control.stop_and_save()
    control.interrupt()
    control.stop_and_save()
    assert control.checkpoint() is Request.INTERRUPT
    control.stop()
    control.interrupt()
    assert control.checkpoint() is Request.STOP


def test_pause_holds_the_job_until_resume():
    control, passed = Control(), threading.Event()
    control.pause()
    assert control.paused
    thread = threading.Thread(target=lambda: (control.checkpoint(), passed.set()), daemon=True)
    thread.start()
    assert not passed.wait(0.2)
    control.resume()
    assert passed.wait(5)


def test_stop_ends_a_pause():
    control, found = Control(), []
    control.pause()
    thread = threading.Thread(target=lambda: found.append(control.checkpoint()), daemon=True)
    thread.start()
    control.stop()
    thread.join(5)
    assert found == [Request.STOP]


def test_a_stopped_job_cannot_be_paused():
    control = Control()
    control.stop()
    control.pause()
    assert not control.paused
