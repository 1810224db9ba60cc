"""What may be a hook."""

import functools
import unittest

import snakepit
from snakepit.runtime import hooks


class Decorating(unittest.TestCase):
    def setUp(self):
        self.before = list(hooks._registered)
        self.addCleanup(lambda: hooks._registered.__setitem__(slice(None), self.before))

    def registered(self):
        return [(hook.kind, hook.name) for hook in hooks._registered[len(self.before) :]]

    def test_a_function_stays_what_it_is(self):
        def load(model="default"):
            return model

        self.assertIs(snakepit.on_start(load), load)
        self.assertIs(snakepit.on_stop(load), load)
        name = f"{__name__}.{load.__qualname__}"
        self.assertEqual(self.registered(), [("on_start", name), ("on_stop", name)])

    def test_whatever_can_be_called_without_arguments(self):
        class Model:
            def close(self):
                pass

        snakepit.on_stop(Model().close)
        snakepit.on_stop(functools.partial(print, "closed"))
        snakepit.on_stop({}.clear)
        self.assertEqual(len(self.registered()), 3)

    def test_what_would_do_nothing_or_cannot_be_called_is_refused_at_once(self):
        def yields():
            yield 1

        async def yields_later():
            yield 1

        class Model:
            def close(self):
                pass

        for decorated, words in [
            (lambda x: x, "called without arguments: missing a required argument: 'x'"),
            (Model.close, "Model.close is called without arguments: missing a required argument: 'self'"),
            (yields, "yields, so that a call of it would do nothing"),
            (yields_later, "yields, so that a call of it would do nothing"),
            (Model, "needs a function, got"),
            ("load", "@on_start needs a function, got 'load'"),
        ]:
            with self.assertRaises(TypeError) as caught:
                snakepit.on_start(decorated)
            self.assertIn(words, str(caught.exception))
        self.assertEqual(self.registered(), [])


if __name__ == "__main__":
    unittest.main()
