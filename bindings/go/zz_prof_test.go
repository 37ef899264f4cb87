package mwa
import ("testing";"context";"time";"fmt";"os")
func TestZZ(t *testing.T){
 a:=time.Now(); compile(); fmt.Println("compile",time.Since(a))
 for _,r:=range []string{"off","","off",""} {
 os.RemoveAll("/tmp/gobench/out4")
 a=time.Now(); _,err:=Merge(context.Background(),"/tmp/gobench/run","/tmp/gobench/out4",Options{Residual:r,Select:"all"}); fmt.Println(r,time.Since(a),err)
 }
}
