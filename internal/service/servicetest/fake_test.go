package servicetest_test

import (
	"testing"

	"holdfast/internal/clock"
	"holdfast/internal/service"
	"holdfast/internal/service/servicetest"
)

func TestFakeKeepsTheContract(t *testing.T) {
	servicetest.Run(t, func(*testing.T) servicetest.Opened {
		f := servicetest.NewFake(clock.Real(), "h")
		return servicetest.Opened{
			Runtime: f, Again: func() service.Runtime { return f }, Lose: f.Lose,
			Long: []string{"long"}, Short: []string{"short"}, Stubborn: []string{"stubborn"}, Missing: []string{"missing"},
		}
	})
}
