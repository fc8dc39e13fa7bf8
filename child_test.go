package aside_test

const childRole = "ASIDE_TEST_CHILD"

func runChild(string) int { return 0 }
