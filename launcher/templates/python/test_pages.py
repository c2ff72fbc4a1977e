"""python3 -m unittest"""

import unittest

from pages import answer


class Pages(unittest.TestCase):
    def test_the_page_greets(self):
        status, kind, text = answer("/?x=1")
        self.assertEqual((status, kind), (200, "text/html; charset=utf-8"))
        self.assertTrue(text.startswith("<!doctype html>"))

    def test_other_pages_are_not_there(self):
        self.assertEqual(answer("/nowhere")[0], 404)


if __name__ == "__main__":
    unittest.main()
